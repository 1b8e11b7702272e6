# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which machine, which operating system, on what; device nodes and their owners."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from .model import Cgroups, Cpu, DeviceNode, System
from .tree import Tree, parse_integer

_CONTAINER = re.compile(rb"(?:^|\0)container=([A-Za-z0-9_.-]*)")
#: What hypervisors write into the machine's firmware tables, in lower case.
_HYPERVISORS = {
    "qemu": "qemu",
    "kvm": "kvm",
    "vmware": "vmware",
    "microsoft": "hyper-v",
    "xen": "xen",
    "amazon": "amazon",
    "google": "google",
    "innotek": "virtualbox",
    "cloud hypervisor": "cloud-hypervisor",
}
_NODES = ("kvm", "iommu", "net/tun", "vhost-net", "vhost-vsock", "sev", "kfd")
_NODE_DIRECTORIES = {"dev": "nvidia", "dev/vfio": "", "dev/vfio/devices": "vfio", "dev/dri": ""}


def read_system(tree: Tree, cpu: Cpu) -> System:
    """Return what the firmware, the kernel and the distribution call themselves."""
    release = dict(_assignments(tree, "etc/os-release") or _assignments(tree, "usr/lib/os-release"))
    vendor, product = tree.word("sys/class/dmi/id/sys_vendor"), tree.word("sys/class/dmi/id/product_name")
    return System(
        hostname=tree.word("proc/sys/kernel/hostname"),
        architecture=_architecture(tree, cpu),
        vendor=vendor,
        product=product or tree.word("proc/device-tree/model"),
        board=tree.word("sys/class/dmi/id/board_name"),
        firmware_version=tree.word("sys/class/dmi/id/bios_version"),
        firmware_date=tree.word("sys/class/dmi/id/bios_date"),
        os_id=release.get("ID"),
        os_version=release.get("VERSION_ID"),
        os_name=release.get("PRETTY_NAME"),
        virtualization=_virtualization(tree, cpu, f"{vendor} {product}".lower()),
        init=_init(tree),
        boot_id=tree.word("proc/sys/kernel/random/boot_id"),
    )


def read_nodes(tree: Tree) -> dict[str, DeviceNode]:
    """Return the device nodes that virtual machines and accelerators need, by path."""
    users, groups = _ids(tree, "etc/passwd"), _ids(tree, "etc/group")
    paths = [f"dev/{name}" for name in _NODES if tree.exists(f"dev/{name}")]
    for directory, prefix in _NODE_DIRECTORIES.items():
        paths += [f"{directory}/{name}" for name in tree.names(directory) if name.startswith(prefix)]
    nodes = {}
    for path in sorted(paths):
        node = None if tree.is_directory(path) else tree.node(path)
        if node is not None:
            owner, group = users.get(node.uid), groups.get(node.gid)
            nodes[node.path] = DeviceNode(node.path, node.mode, node.uid, node.gid, owner, group)
    return nodes


def group_members(tree: Tree, gid: int) -> tuple[str, ...]:
    """Return the users in a group, those whose primary group it is too."""
    members: set[str] = set()
    for line in tree.lines("etc/group"):
        fields = line.split(":")
        if len(fields) == 4 and fields[2] == str(gid):
            members.update(name for name in fields[3].split(",") if name)
    for line in tree.lines("etc/passwd"):
        fields = line.split(":")
        if len(fields) >= 4 and fields[3] == str(gid):
            members.add(fields[0])
    return tuple(sorted(members))


def read_cgroups(tree: Tree) -> Cgroups:
    """Return the layout of control groups (systemd's names for it)."""
    root = "sys/fs/cgroup"
    if tree.exists(f"{root}/cgroup.controllers"):
        return Cgroups("unified", tuple((tree.text(f"{root}/cgroup.controllers") or "").split()))
    if not tree.names(root):
        return Cgroups()
    rows = [line.split() for line in tree.lines("proc/cgroups") if not line.startswith("#")]
    controllers = tuple(sorted(row[0] for row in rows if len(row) == 4 and row[3] == "1"))
    return Cgroups("hybrid" if tree.exists(f"{root}/unified") else "legacy", controllers)


def _assignments(tree: Tree, path: str) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of os-release's lines."""
    for line in tree.lines(path):
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            yield name.strip(), value.strip().strip("\"'")


def _architecture(tree: Tree, cpu: Cpu) -> str | None:
    # /proc/sys/kernel/arch is there since Linux 6.1.
    found = tree.word("proc/sys/kernel/arch")
    if found is None and tree.is_live:
        return os.uname().machine
    if found is None and cpu.vendor:
        return "x86_64" if cpu.under_hypervisor is not None else "aarch64"
    return found


def _virtualization(tree: Tree, cpu: Cpu, product: str) -> str | None:
    container = _CONTAINER.search(tree.content("proc/1/environ", quiet=True) or b"")
    if container and container[1]:
        return container[1].decode("ascii")
    if tree.exists("run/systemd/container"):
        return tree.word("run/systemd/container") or "container"
    if tree.exists(".dockerenv"):
        return "docker"
    named = next((name for words, name in _HYPERVISORS.items() if words in product), None)
    if cpu.under_hypervisor:
        return named or tree.word("sys/hypervisor/type") or "unknown"
    # arm64 has no such flag; only names that no vendor of hardware has can tell there.
    if cpu.under_hypervisor is None and named not in (None, "microsoft", "amazon", "google"):
        return named
    return "" if cpu.vendor else None


def _init(tree: Tree) -> str | None:
    if tree.is_directory("run/systemd/system"):
        return "systemd"
    return "other" if tree.is_directory("run") else None


def _ids(tree: Tree, path: str) -> dict[int, str]:
    """Return names by number, of /etc/passwd and /etc/group alike."""
    names: dict[int, str] = {}
    for line in tree.lines(path):
        fields = line.split(":")
        number = parse_integer(fields[2]) if len(fields) >= 3 else None
        if number is not None:
            names.setdefault(number, fields[0])
    return names
