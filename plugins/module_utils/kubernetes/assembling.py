# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make a host a member of a control plane by kubeadm, so that a run that was interrupted can be run again.

A marker (`membership`) is there while kubeadm works. A first member that was interrupted goes on where the API answers
already, and is reset where it does not: nobody has used it yet. A further member that was interrupted is reset, which
takes its etcd out of the others'.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import atomic, signals
from . import joining, membership, pins, tokens, versions
from .errors import NodeError
from .programs import Kubectl, run

ROOT = Path("/")
#: In RAM, for root alone, and gone when the work ends.
DIRECTORY = Path("/run/vllmd-kubernetes-control-plane")
KUBECONFIG = "/etc/kubernetes/admin.conf"
CA = Path("/etc/kubernetes/pki/ca.crt")
_RESET_SECONDS = 300
_PHASE_SECONDS = 120
#: What is left to do when the API server answers; each of them can be done again (kubernetes.io, "kubeadm init phase").
_REST = (
    ("upload-config", "all"),
    ("mark-control-plane",),
    ("bootstrap-token",),
    ("kubelet-finalize", "all"),
    ("addon", "coredns"),
    ("addon", "kube-proxy"),
)


def kubeadm_version() -> versions.Version:
    """Return the version of the kubeadm that is found, which has to fit the kubelet. Raises NodeError."""
    kubeadm = run(["kubeadm", "version", "--output", "short"], timeout_seconds=60)
    version = versions.parse(kubeadm.output, "kubeadm version")
    answer = run(["kubelet", "--version"], timeout_seconds=60)
    trouble = versions.skew(versions.parse(answer.output.rpartition(" ")[2], "kubelet --version"), version)
    if trouble:
        raise NodeError(trouble)
    return version


def authority(documents: Sequence[dict[str, Any]], secrets: Sequence[str] = ()) -> bool:
    """Make the cluster's CA, so that others can be told whom to believe before anything runs; whether it was missing.

    Begins anew where an earlier run was interrupted before its API server answered. Raises NodeError, OSError.
    """
    state = membership.state(ROOT)
    if state == "member" or (state == "interrupted" and answers()):
        return False
    if state == "interrupted":
        reset("an earlier run was interrupted and cannot be reset")
        membership.end(ROOT)
    if state == "prepared" and (ROOT / CA.relative_to("/")).exists():
        return False
    membership.begin(ROOT, "init")
    with_configuration(documents, lambda file: phase(file, "certs", "ca"), secrets)
    return True


def initialize(
    documents: Sequence[dict[str, Any]], token: str, skipped: Sequence[str], version: versions.Version, timeout: int
) -> float:
    """Run ``kubeadm init``, or what is left of it; the seconds it took. Raises NodeError, OSError.

    What fails stays as it is, for a person to look at, and the next run begins anew.
    """
    started = time.monotonic()

    def work(file: Path) -> None:
        if versions.can_validate(version):
            must(
                "kubeadm refuses its configuration", ["kubeadm", "config", "validate", "--config", str(file)], 60, token
            )
        if membership.state(ROOT) == "interrupted":
            for step in _REST:
                if "/".join(step) not in skipped:
                    phase(file, *step)
            return
        membership.begin(ROOT, "init")
        command = ["kubeadm", "init", "--config", str(file), "--skip-token-print"]
        if skipped:
            command.append(f"--skip-phases={','.join(skipped)}")
        done = run(command, timeout_seconds=timeout)
        if done.status != 0:
            raise NodeError(f"kubeadm init failed: {joining.without(token, init_reason(done.said))}")

    with_configuration(documents, work, [token])
    # The token was for kubeadm's own use.
    identity = tokens.secret_name(token.partition(".")[0])
    kubectl().must(
        "cannot revoke kubeadm's token", "delete", "secret", identity, "-n", tokens.NAMESPACE, "--ignore-not-found"
    )
    membership.end(ROOT)
    return time.monotonic() - started


def join(document: dict[str, Any], secrets: Sequence[str], version: versions.Version, timeout: int) -> float:
    """Run ``kubeadm join`` for a further member; the seconds it took. Raises NodeError, and then the host is reset."""
    if membership.state(ROOT) == "interrupted":
        reset("an earlier join was interrupted and cannot be reset")
    started = time.monotonic()

    def work(file: Path) -> None:
        if versions.can_validate(version):
            must(
                "kubeadm refuses its configuration",
                ["kubeadm", "config", "validate", "--config", str(file)],
                60,
                *secrets,
            )
        membership.begin(ROOT, "join")
        try:
            done = run(["kubeadm", "join", "--config", str(file)], timeout_seconds=timeout)
            registration = document["nodeRegistration"]["name"]
            endpoint = document["discovery"]["bootstrapToken"]["apiServerEndpoint"]
            failure = "" if done.status == 0 else joining.reason(done.said, endpoint, registration)
        except NodeError as error:
            failure = str(error)
        except signals.Interrupted:
            with signals.signals_ignored():
                reset("the join was interrupted and cannot be reset")
                membership.end(ROOT)
            raise
        if failure:
            reset(f"{without(secrets, failure)}; and it could not be undone")
            membership.end(ROOT)
            raise NodeError(f"{without(secrets, failure)}; the host was reset")

    with_configuration([document], work, secrets)
    membership.end(ROOT)
    return time.monotonic() - started


def upload_certificates(documents: Sequence[dict[str, Any]], key: str) -> None:
    """Let further members fetch the cluster's keys, encrypted with ``key``, for two hours at most. Raises NodeError."""
    command = ["upload-certs", "--upload-certs"]
    with_configuration(documents, lambda file: phase(file, *command), [key])


def withdraw_certificates() -> bool:
    """Take the cluster's encrypted keys back; whether they were there. Raises NodeError.

    With them goes the token that kubeadm has made to be their owner, so that they would end with it.
    """
    what = "cannot delete kube-system/kubeadm-certs"
    place = ("--namespace", "kube-system", "--ignore-not-found")
    text = kubectl().must(what, "get", "secret", "kubeadm-certs", *place, "--output", "json").strip()
    if not text:
        return False
    owners = json.loads(text)["metadata"].get("ownerReferences") or []
    names = [each["name"] for each in owners if each["kind"] == "Secret"]
    kubectl().must(what, "delete", "secret", "kubeadm-certs", *names, *place)
    return True


def answers() -> bool:
    """Return whether the API server answers with the administrator's credentials. Raises NodeError."""
    return kubectl().run("get", "--raw", "/readyz", "--request-timeout", "10s", timeout_seconds=20).status == 0


def pinned() -> list[str]:
    """Return the pins of the cluster's CA; empty when there is none. Raises NodeError, OSError."""
    path = ROOT / CA.relative_to("/")
    return list(pins.of_pem(path.read_text(encoding="utf-8"))) if path.exists() else []


def kubectl() -> Kubectl:
    """Return kubectl with the administrator's credentials of this host."""
    return Kubectl("kubectl", KUBECONFIG)


def phase(file: Path, *names: str) -> None:
    """Run one of ``kubeadm init``'s phases. Raises NodeError."""
    must(
        f"kubeadm init phase {' '.join(names)} failed",
        ["kubeadm", "init", "phase", *names, "--config", str(file)],
        _PHASE_SECONDS,
    )


def must(what: str, argv: Sequence[str], timeout: int, *secrets: str) -> None:
    """Run a program. Raises NodeError, which begins with ``what`` and has none of the secrets in it."""
    done = run(argv, timeout_seconds=timeout)
    if done.status != 0:
        raise NodeError(f"{what}: {without(secrets, done.last_line)}")


def reset(otherwise: str) -> None:
    """Take away what kubeadm made. Raises NodeError, which begins with ``otherwise``."""
    must(otherwise, ["kubeadm", "reset", "--force", "--cri-socket", joining.SOCKET], _RESET_SECONDS)
    # What it leaves, and what would keep the next one from a clean start.
    for name in ("var/lib/etcd/member", "etc/kubernetes/pki"):
        shutil.rmtree(ROOT / name, ignore_errors=True)


def with_configuration(
    documents: Sequence[dict[str, Any]], work: Callable[[Path], None], secrets: Sequence[str]
) -> None:
    """Let ``work`` have the documents as one file, gone afterwards. Raises what it raises, without the secrets."""
    shutil.rmtree(DIRECTORY, ignore_errors=True)  # of a run that was killed
    DIRECTORY.mkdir(mode=0o700)
    try:
        file = DIRECTORY / "config.yaml"
        # JSON is YAML, and needs no library on the host.
        atomic.write_file(file, "---\n".join(json.dumps(each) + "\n" for each in documents).encode(), 0o600)
        work(file)
    except NodeError as error:
        raise NodeError(without(secrets, str(error))) from None
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)


def without(secrets: Sequence[str], text: str) -> str:
    """Return ``text`` without the secrets."""
    for secret in secrets:
        text = joining.without(secret, text)
    return text


def init_reason(output: str) -> str:
    """Return what kubeadm's failed output means, in one line."""
    if re.search(r"The kubelet is not running|couldn't initialize a Kubernetes cluster|wait-control-plane", output):
        return (
            "the control plane did not come up in time; 'journalctl -u kubelet' and 'crictl ps -a' on this host say "
            "what does not start"
        )
    return joining.reason(output, "this host", "this host")
