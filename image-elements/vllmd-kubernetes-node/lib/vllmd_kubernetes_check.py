"""Ask the installed programs for their versions, refuse what does not fit, and print the fact ``kubernetes``.

Usage: vllmd_kubernetes_check.py FILES_JSON

Runs in the tree, so it also proves that each program runs there. FILES_JSON has the digests of files that were given;
where packages were installed it does not exist, and the digests are those of what they installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

QUESTIONS = {
    "kubelet": ["kubelet", "--version"],
    "kubeadm": ["kubeadm", "version", "-o", "short"],
    "kubectl": ["kubectl", "version", "--client"],
    "crictl": ["crictl", "--version"],
}
_VERSION = re.compile(r"\bv?([0-9]+)\.([0-9]+)\.([0-9]+)([-+][0-9A-Za-z.+-]+)?\b")


class CheckError(Exception):
    """What does not fit, in one sentence for a person."""


def version_in(text: str) -> tuple[int, int, int] | None:
    """Return the first version in ``text``, such as (1, 33, 1)."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def ask(name: str) -> tuple[int, int, int]:
    """Return the version that program ``name`` answers. Raises CheckError."""
    try:
        done = subprocess.run(QUESTIONS[name], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckError(f"{name} does not run in the image ({error}); take the build for its architecture") from None
    version = version_in(done.stdout)
    if done.returncode != 0 or version is None:
        said = " ".join((done.stdout + done.stderr).split())[:200] or f"status {done.returncode}"
        raise CheckError(f"{' '.join(QUESTIONS[name])} does not answer with a version ({said})")
    return version


def check(versions: dict[str, tuple[int, int, int]], wanted: str) -> None:
    """Raise CheckError unless the versions fit each other and ``wanted`` (``1.33``, ``v1.33.1`` or empty).

    kubeadm manages a kubelet of its own minor version and, since 1.28, older ones (kubernetes.io, "Creating a cluster
    with kubeadm", version skew policy); in one image there is no reason for any skew. kubectl may be one minor off.
    """
    kubelet, kubeadm, kubectl = versions["kubelet"], versions["kubeadm"], versions["kubectl"]
    if kubelet[:2] != kubeadm[:2]:
        raise CheckError(
            f"kubelet is {spell(kubelet)} and kubeadm {spell(kubeadm)}; give both in the same minor version"
        )
    if kubectl[0] != kubelet[0] or abs(kubectl[1] - kubelet[1]) > 1:
        raise CheckError(
            f"kubectl is {spell(kubectl)} and kubelet {spell(kubelet)}; they may differ by one minor version"
        )
    asked = tuple(int(part) for part in wanted.removeprefix("v").split(".")) if wanted else ()
    if kubelet[: len(asked)] != asked:
        raise CheckError(
            f"kubelet is {spell(kubelet)}, and DIB_VLLMD_KUBERNETES_VERSION asks for {wanted}; correct one"
        )


def spell(version: tuple[int, int, int]) -> str:
    """Return a version as Kubernetes writes it."""
    return f"v{version[0]}.{version[1]}.{version[2]}"


def main() -> int:
    """Check, print the fact; return the exit status."""
    listed = Path(sys.argv[1])
    wanted = os.environ.get("DIB_VLLMD_KUBERNETES_VERSION", "")
    try:
        if not re.fullmatch(r"(v?[0-9]+(\.[0-9]+){0,2})?", wanted):
            raise CheckError(f"DIB_VLLMD_KUBERNETES_VERSION={wanted} is no version; write 1.33 or 1.33.1")
        versions = {name: ask(name) for name in QUESTIONS}
        check(versions, wanted)
    except CheckError as error:
        print(f"vllmd-kubernetes-node: {error}", file=sys.stderr)
        return 1
    if listed.is_file():
        files = json.loads(listed.read_text(encoding="utf-8"))
    else:
        files = {
            name: f"sha256:{hashlib.sha256(Path('/usr/bin', name).read_bytes()).hexdigest()}"
            for name in sorted(QUESTIONS)
        }
    print(json.dumps({"version": spell(versions["kubelet"]), "files": files}, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
