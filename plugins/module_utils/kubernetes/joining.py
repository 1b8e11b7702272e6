# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What kubeadm is given to join a cluster, in the version of its API that it reads, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import pins as ca_pins
from . import versions
from .errors import NodeError

SOCKET = "unix:///run/containerd/containerd.sock"
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")
#: kubernetes.io, "Bootstrap Tokens": 6 and 16 of a-z and 0-9.
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_ARGUMENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Join:
    """Everything that decides how a host joins. ``discovery_seconds`` is how long kubeadm asks the API server.

    ``patches`` is a directory of kubeadm's patches, empty for none.
    """

    endpoint: str
    token: str = field(repr=False)
    pins: Sequence[str]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    patches: str = ""
    discovery_seconds: int = 60


def endpoint(given: str) -> str:
    """Return the API server's address and port. Raises NodeError."""
    match = _ENDPOINT.fullmatch(given.strip())
    if match is None or not 0 < int(match[2]) < 65536:
        raise NodeError(f"API endpoint {given[:80]!r}: write the API server's address and port, such as 10.0.0.10:6443")
    return given.strip()


def token(given: str) -> str:
    """Return the bootstrap token. Raises NodeError, which does not say the token."""
    if not _TOKEN.fullmatch(given.strip()):
        raise NodeError("the bootstrap token is malformed: write 6 and 16 characters of a-z and 0-9 with a dot between")
    return given.strip()


def arguments(given: Mapping[str, Any]) -> dict[str, str]:
    """Return further arguments of the kubelet, by name without dashes in front. Raises NodeError."""
    for name in given:
        if not _ARGUMENT.fullmatch(str(name)):
            raise NodeError(
                f"kubelet argument {str(name)[:60]!r}: write its name without dashes in front, such as node-ip"
            )
        if name == "node-labels":
            raise NodeError("kubelet argument node-labels: give labels as labels, they are checked and kept up to date")
    return {str(name): str(value) for name, value in sorted(given.items())}


def ignored(given: Sequence[str]) -> list[str]:
    """Return names of kubeadm's preflight checks to pass over. Raises NodeError for ``all``."""
    if any(name.strip().lower() == "all" for name in given):
        raise NodeError(
            "preflight checks: 'all' is not possible; name the checks that do not hold on this host and why"
        )
    return sorted({name.strip() for name in given})


def configuration(join: Join, version: versions.Version) -> dict[str, Any]:
    """Return kubeadm's JoinConfiguration for kubeadm ``version``. Raises NodeError for a missing or malformed pin.

    Sources: kubernetes.io, "kubeadm Configuration" (v1beta2), (v1beta3), (v1beta4).
    """
    api = versions.api_version(version)
    beta = int(api[-1])
    given = dict(join.arguments)
    if join.labels:
        given["node-labels"] = ",".join(f"{key}={value}" for key, value in sorted(join.labels.items()))
    discovery: dict[str, Any] = {
        "bootstrapToken": {
            "apiServerEndpoint": endpoint(join.endpoint),
            "token": token(join.token),
            "caCertHashes": ca_pins.parse(join.pins),
            "unsafeSkipCAVerification": False,
        }
    }
    registration: dict[str, Any] = {
        # A kubelet of that time takes a path, later ones an address.
        "criSocket": SOCKET.removeprefix("unix://") if beta == 2 else SOCKET,
        # An empty list says "no taints"; leaving it out would say the same for a worker.
        "taints": [dict(taint) for taint in join.taints],
    }
    if join.name:
        registration["name"] = join.name
    if join.ignored:
        registration["ignorePreflightErrors"] = list(join.ignored)
    if given:
        # A list since v1beta4, so that an argument may be given twice.
        registration["kubeletExtraArgs"] = (
            [{"name": name, "value": value} for name, value in sorted(given.items())]
            if beta >= 4
            else dict(sorted(given.items()))
        )
    document: dict[str, Any] = {
        "apiVersion": api,
        "kind": "JoinConfiguration",
        "discovery": discovery,
        "nodeRegistration": registration,
    }
    # Where the time to ask the API server moved to with v1beta4.
    if beta >= 4:
        document["timeouts"] = {"discovery": f"{join.discovery_seconds}s"}
    else:
        discovery["timeout"] = f"{join.discovery_seconds}s"
    if join.patches and versions.can_patch_kubelet(version):
        document["patches"] = {"directory": join.patches}
    return document


#: What kubeadm says, and what that means and asks for. The first that matches counts.
_REASONS: tuple[tuple[str, str], ...] = (
    (
        r"none of the public keys .* are pinned|cluster CA found in cluster-info ConfigMap is invalid",
        "the CA that answers at {endpoint} is not the one that is pinned; compare the pin with the "
        "control plane's, and if "
        "it is right somebody else answers there",
    ),
    (
        r"JWS signature|token ID .* is invalid for this cluster or it has expired",
        "the bootstrap token is unknown at {endpoint} or has expired; make a new one with 'kubeadm token "
        "create' and join again; if new ones are refused, too, the controller manager does not run its bootstrapsigner",
    ),
    (
        r"[Nn]ode with name .* already exists",
        "a ready node named {name} is in the cluster already; give this host another name, or delete that node first",
    ),
    (
        r"is forbidden: User \"system:bootstrap:|Unauthorized",
        "the cluster at {endpoint} did not accept the bootstrap token; it may not serve for authentication, or it was "
        "revoked meanwhile",
    ),
    (
        r"connection refused|no route to host|i/o timeout|context deadline exceeded|Client\.Timeout|no such host",
        "the API server at {endpoint} does not answer; look at its address, its port and what is between",
    ),
)


def reason(output: str, where: str, name: str) -> str:
    """Return what kubeadm's failed output means, in one line; ``where`` is the endpoint, ``name`` the node's name."""
    for pattern, sentence in _REASONS:
        if re.search(pattern, output):
            return sentence.format(endpoint=where, name=name)
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.search(r"\berror|\[ERROR", line, re.IGNORECASE) and "ignore-preflight" not in line
    ]
    return "; ".join(dict.fromkeys(errors or lines[-1:]))[:600] or "kubeadm said nothing"


def without(secret: str, text: str) -> str:
    """Return ``text`` without the token: neither whole nor its second half stays; the id is no secret."""
    for part in (secret, secret.partition(".")[2]):
        if part:
            text = text.replace(part, "(token)")
    return text
