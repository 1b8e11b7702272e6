# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Versions of Kubernetes, and what each of them speaks and can do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import NodeError

_VERSION = re.compile(r"v?([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})([-+][0-9A-Za-z.+~-]*)?")

#: The oldest version whose kubeadm reads a configuration that is rendered here.
OLDEST = (1, 15)


@dataclass(frozen=True, order=True)
class Version:
    """A version of Kubernetes, such as 1.33.1; what follows a dash or plus does not count."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        """Return it as kubeadm writes it: ``v1.33.1``."""
        return f"v{self.major}.{self.minor}.{self.patch}"

    @property
    def release(self) -> tuple[int, int]:
        """Return major and minor, which decide what it can do."""
        return self.major, self.minor


def parse(text: str, where: str = "version") -> Version:
    """Return the version that ``text`` is (``1.33.1``, ``v1.33.1``, ``v1.33.1-rc.0``). Raises NodeError."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise NodeError(
            f"{where}: {text.strip()[:60]!r} is no version of Kubernetes; write all three parts, such as 1.33.1"
        )
    version = Version(int(match[1]), int(match[2]), int(match[3]))
    if version.release < OLDEST:
        raise NodeError(f"{where}: {version} is too old; the oldest that can be joined with is 1.{OLDEST[1]}")
    return version


def api_version(version: Version) -> str:
    """Return the version of kubeadm's configuration API to write for it (kubernetes.io, "kubeadm Configuration").

    v1beta2 until 1.21, v1beta3 from 1.22 to 1.30, v1beta4 since; each is read for some more versions.
    """
    if version.release < (1, 22):
        return "kubeadm.k8s.io/v1beta2"
    return "kubeadm.k8s.io/v1beta3" if version.release < (1, 31) else "kubeadm.k8s.io/v1beta4"


def can_validate(version: Version) -> bool:
    """Return whether ``kubeadm config validate`` exists (since 1.26)."""
    return version.release >= (1, 26)


def can_patch_kubelet(version: Version) -> bool:
    """Return whether kubeadm applies a node's patches to the kubelet's configuration (since 1.25)."""
    return version.release >= (1, 25)


def skew(kubelet: Version, kubeadm: Version) -> str:
    """Return why this kubeadm cannot manage this kubelet, as a sentence; empty when it can.

    kubernetes.io, "Creating a cluster with kubeadm", version skew: the same version or one older, since kubeadm 1.28 up
    to three older; never a newer kubelet.
    """
    oldest = kubeadm.minor - (3 if kubeadm.release >= (1, 28) else 1)
    if kubelet.major == kubeadm.major and oldest <= kubelet.minor <= kubeadm.minor:
        return ""
    return f"kubelet is {kubelet} and kubeadm {kubeadm}; install both in the same minor version"
