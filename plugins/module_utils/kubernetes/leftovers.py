# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node that has left its cluster still has of it, beyond what ``kubeadm reset`` takes away."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Chains that kube-proxy, the kubelet and the usual network plug-ins make.
_CHAIN = r"(?:KUBE|CNI|CNI-HOSTPORT|CILIUM|cali|FLANNEL|WEAVE)-"
_DECLARED = re.compile(rf"^:{_CHAIN}")
_RULE = re.compile(rf"^-A (?:{_CHAIN}|.*\s-[jg] {_CHAIN})")
#: What kubeadm, the kubelet and kubeadm's interrupted runs leave of a membership.
MEMBER_FILES = (
    "etc/kubernetes/kubelet.conf",
    "etc/kubernetes/bootstrap-kubelet.conf",
    "etc/kubernetes/pki/ca.crt",
    "var/lib/kubelet/config.yaml",
    "var/lib/kubelet/kubeadm-flags.env",
    "var/lib/kubelet/pki",
)
#: What only a host of the control plane has; to reset one would take the cluster with it.
CONTROL_PLANE_FILES = (
    "etc/kubernetes/pki/ca.key",
    "etc/kubernetes/manifests/kube-apiserver.yaml",
    "etc/kubernetes/admin.conf",
    "var/lib/etcd/member",
)


@dataclass(frozen=True)
class Leftovers:
    """What is still there. Paths are absolute on the host; ``cgroups`` and ``mounts`` come with the deepest first."""

    member_files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return one line for each, for a diff."""
        named = (
            ("membership", self.member_files),
            ("link", self.links),
            ("path", self.paths),
            ("mount", self.mounts),
            ("network namespace", self.namespaces),
            ("cgroup", self.cgroups),
        )
        return [f"{kind} {each}" for kind, found in named for each in found]


def control_plane(root: Path) -> str:
    """Return why the host at ``root`` is one of a control plane's, as a sentence; empty when it is not."""
    for name in CONTROL_PLANE_FILES:
        if (root / name).exists():
            return (
                f"control plane: /{name} is there, so this host is one of a control plane's; this role is "
                f"for nodes that only "
                "run pods, and 'kubeadm reset' here would damage the cluster"
            )
    return ""


def find(root: Path, links: Iterable[str], paths: Iterable[str]) -> Leftovers:
    """Return what is left on the host at ``root`` of network interfaces ``links`` and directories or files ``paths``.

    A directory among ``paths`` counts when something is in it, and stays itself.
    """
    return Leftovers(
        member_files=tuple(f"/{name}" for name in MEMBER_FILES if (root / name).exists()),
        links=tuple(name for name in links if (root / "sys/class/net" / name).exists()),
        paths=tuple(each for path in paths for each in _inside(root, path)),
        mounts=_mounts(root),
        namespaces=tuple(f"/run/netns/{path.name}" for path in sorted((root / "run/netns").glob("cni-*"))),
        cgroups=_cgroups(root),
    )


def filtered(saved: str) -> str:
    """Return the text of iptables-save without Kubernetes' chains and the rules that lead there."""
    kept = [line for line in saved.splitlines() if not _DECLARED.match(line) and not _RULE.match(line)]
    return "".join(f"{line}\n" for line in kept)


def has_rules(saved: str) -> bool:
    """Return whether the text of iptables-save has something that `filtered` takes away."""
    return any(_DECLARED.match(line) or _RULE.match(line) for line in saved.splitlines())


def _inside(root: Path, path: str) -> list[str]:
    here = root / path.lstrip("/")
    if here.is_dir() and not here.is_symlink():
        return [f"{path.rstrip('/')}/{each.name}" for each in sorted(here.iterdir())]
    return [path] if here.exists() or here.is_symlink() else []


def _mounts(root: Path) -> tuple[str, ...]:
    try:
        text = (root / "proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    # Space, tab, newline and backslash are written as octal escapes (fstab(5)).
    targets = [
        re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        for fields in (line.split() for line in text.splitlines())
        if len(fields) > 1
    ]
    found = [target for target in targets if target.startswith(("/var/lib/kubelet/", "/run/netns/cni-"))]
    return tuple(sorted(found, key=lambda target: (-target.count("/"), target)))


def _cgroups(root: Path) -> tuple[str, ...]:
    top = root / "sys/fs/cgroup"
    if not top.is_dir():
        return ()
    found: set[str] = set()
    # Of cgroup v1 each controller has a tree of its own, below the process's own cgroup in a container.
    for base in {top, *(each for each in top.iterdir() if each.is_dir() and not each.is_symlink())}:
        for name in ("kubepods", "kubepods.slice"):
            start = base / name
            if start.is_dir():
                found |= {str(start), *(str(path) for path in start.rglob("*") if path.is_dir())}
    rooted = {f"/{Path(path).relative_to(root)}" for path in found}
    return tuple(sorted(rooted, key=lambda path: (-path.count("/"), path)))
