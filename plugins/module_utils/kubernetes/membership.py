# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How far a host has come as a member of a control plane, from what kubeadm and this collection left on it."""

from __future__ import annotations

from pathlib import Path

from .errors import NodeError

#: There from before kubeadm begins until it has ended well; what it says is which of the two it does.
MARKER = "var/lib/vllmd/runtime-controller/assembling"
#: What a member has when kubeadm has ended.
MEMBER_FILES = (
    "etc/kubernetes/admin.conf",
    "etc/kubernetes/kubelet.conf",
    "etc/kubernetes/manifests/etcd.yaml",
    "etc/kubernetes/manifests/kube-apiserver.yaml",
    "etc/kubernetes/manifests/kube-controller-manager.yaml",
    "etc/kubernetes/manifests/kube-scheduler.yaml",
    "etc/kubernetes/pki/ca.crt",
    "etc/kubernetes/pki/ca.key",
)
#: What is there from the moment on that something runs, so that nothing but a reset begins anew.
_BEGUN = ("etc/kubernetes/manifests/etcd.yaml", "etc/kubernetes/kubelet.conf", "var/lib/etcd/member")


def state(root: Path) -> str:
    """Return ``member``, ``none``, ``prepared`` (no more than certificates) or ``interrupted``.

    Raises NodeError for a host that is something else: a node that only runs pods, or a part of a control plane that
    nobody here made.
    """
    has_begun = any((root / name).exists() for name in _BEGUN)
    if (root / MARKER).exists():
        return "interrupted" if has_begun else "prepared"
    missing = [name for name in MEMBER_FILES if not (root / name).exists()]
    if not missing:
        return "member"
    # An authority alone is one that the operator has put there for kubeadm to use.
    there = [name for name in MEMBER_FILES if name not in missing and not name.startswith("etc/kubernetes/pki/")]
    if there == ["etc/kubernetes/kubelet.conf"]:
        raise NodeError(
            "node: this host is a node that only runs pods; let it leave first (kubernetes_node_state: left)"
        )
    if there or (root / "var/lib/etcd/member").exists():
        held = f"/{(there or ['var/lib/etcd/member'])[0]}"
        raise NodeError(
            f"control plane: {held} is here and /{missing[0]} is not, and no run of this collection was interrupted "
            "here; restore what is missing from a backup, or run 'kubeadm reset' if this host's cluster is lost or has "
            "other members"
        )
    return "none"


def begin(root: Path, what: str) -> None:
    """Remember that kubeadm begins with ``what``. Raises OSError."""
    path = root / MARKER
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{what}\n", encoding="ascii")


def end(root: Path) -> None:
    """Remember that it has ended well. Raises OSError."""
    (root / MARKER).unlink(missing_ok=True)
