# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a member's etcd is, from the static pod that kubeadm wrote for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import KeepingError

KUBERNETES = "etc/kubernetes"
MANIFESTS = f"{KUBERNETES}/manifests"
PKI = f"{KUBERNETES}/pki"
#: In the order in which they start; each needs the one before.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

_ARGUMENT = re.compile(r"^\s*-\s+[\"']?--([a-z0-9-]+)=(.*?)[\"']?\s*$", re.MULTILINE)
_IMAGE = re.compile(r"^\s*image:\s*[\"']?([^\s\"']+)", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """An etcd as its static pod starts it; paths are those of the host."""

    name: str
    data_directory: str
    peer_url: str
    client_url: str
    metrics_url: str
    ca_file: str
    image: str

    @property
    def etcd_version(self) -> str:
        """Return the version that the image's tag says, such as 3.5.16; empty when it says none."""
        match = re.search(r":v?([0-9]+\.[0-9]+\.[0-9]+)", self.image)
        return match[1] if match else ""


def arguments(manifest: str) -> dict[str, str]:
    """Return the arguments of a static pod's command, name to value, from its text as kubeadm writes it."""
    return {match[1]: match[2] for match in _ARGUMENT.finditer(manifest)}


def image(manifest: str) -> str:
    """Return the first container's image; empty when there is none."""
    match = _IMAGE.search(manifest)
    return match[1] if match else ""


def manifest_of(root: Path, component: str, aside: Path | None = None) -> str:
    """Return the text of a component's static pod, also when it was put ``aside``. Raises KeepingError, OSError."""
    paths = [root / MANIFESTS / f"{component}.yaml", *([aside / f"{component}.yaml"] if aside else [])]
    for path in paths:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise KeepingError(
        f"{paths[0]} is not there: this host has no {component} that kubeadm set up; name a member of the control plane"
    )


def read(root: Path = Path("/"), aside: Path | None = None) -> Member:
    """Return the host's member. Raises KeepingError when it has none or the static pod lacks something, OSError."""
    text = manifest_of(root, "etcd", aside)
    given = arguments(text)
    missing = [name for name in ("name", "data-dir", "initial-advertise-peer-urls") if not given.get(name)]
    if missing:
        raise KeepingError(f"the static pod of etcd has no argument --{missing[0]}; kubeadm writes one")
    clients = given.get("listen-client-urls", "https://127.0.0.1:2379").split(",")
    return Member(
        name=given["name"],
        data_directory=given["data-dir"],
        peer_url=given["initial-advertise-peer-urls"].split(",")[0],
        client_url=next((url for url in clients if "127.0.0.1" in url), clients[0]),
        metrics_url=given.get("listen-metrics-urls", "").split(",")[0],
        ca_file=given.get("trusted-ca-file", f"/{PKI}/etcd/ca.crt"),
        image=image(text),
    )
