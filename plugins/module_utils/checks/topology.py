# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a reader sees of a host before its findings: a few lines, and the tree that a drawing is made of."""

from __future__ import annotations

from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    gib,
    group_endpoints,
    has_class,
    is_accelerator,
    is_nvswitch,
    join,
    ranges,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, NumaNode, PciDevice

_KINDS = {"network": ("02",), "storage": ("01",)}
_NAMES = {
    "01": "storage",
    "02": "network",
    "0300": "display",
    "0302": "3D controller",
    "0380": "display",
    "0403": "audio",
    "0604": "bridge",
    "0680": "bridge device",
    "0c03": "USB",
    "0c80": "serial bus",
    "12": "processing accelerator",
}


def summary(host: Host, policy: Policy) -> dict[str, str]:
    """Return a few lines that identify the host, name to text; an empty text is not known."""
    system, cpu, memory = host.system, host.cpu, host.memory
    kinds: dict[str, int] = {}
    for device in accelerators(host, policy):
        kinds[device.id] = kinds.get(device.id, 0) + 1
    sockets = f"{cpu.sockets} x " if cpu.sockets else ""
    pools = [
        f"{pool.total} hugepages of {gib(pool.size_bytes)}"
        for pool in memory.hugepages
        if pool.node is None and pool.total
    ]
    return {
        "machine": " ".join(part for part in (system.vendor, system.product) if part),
        "system": ", ".join(part for part in (system.os_name, host.kernel.release) if part),
        "processor": f"{sockets}{cpu.model}, {len(cpu.online)} CPUs" if cpu.model else "",
        "memory": join([gib(memory.total_bytes), *pools]) if memory.total_bytes else "",
        "accelerators": join(f"{count} x {kind}" for kind, count in sorted(kinds.items())) or "none",
    }


def _kind(host: Host, policy: Policy, device: PciDevice) -> str | None:
    """Return what a device is to the drawing; None for one that it leaves out."""
    if device.is_bridge:
        return "bridge"
    if is_accelerator(device, policy):
        return "accelerator"
    if is_nvswitch(device):
        return "switch"
    if any(is_accelerator(other, policy) for other in group_endpoints(host, device)):
        return "other"
    return next((kind for kind, prefixes in _KINDS.items() if has_class(device, *prefixes)), None)


def _name(device: PciDevice, kind: str) -> str:
    if kind == "bridge":
        return ""
    if kind == "switch":
        return f"NVSwitch {device.id}"
    word = next((name for prefix, name in _NAMES.items() if has_class(device, prefix)), "device")
    return f"{word} {device.id}"


def _link(device: PciDevice) -> str:
    link = device.link
    if link is None or link.speed_gtps is None or not link.width_lanes:
        return ""
    return f"{link.speed_gtps:g} GT/s x{link.width_lanes}"


def _entry(device: PciDevice, kind: str) -> dict[str, Any]:
    return {
        "bdf": device.bdf,
        "kind": kind,
        "name": _name(device, kind),
        "driver": "" if kind == "bridge" else device.driver or "",
        "group": None if device.iommu_group is None else str(device.iommu_group),
        "link": "" if kind == "bridge" else _link(device),
        "children": [],
    }


def _title(number: int | None, node: NumaNode | None) -> tuple[str, str]:
    """Return the panel's title and the line below it."""
    if node is None:
        return ("PCI devices on no known NUMA node", "") if number is None else (f"NUMA node {number}", "")
    memory = "" if node.memory_bytes is None else f", {gib(node.memory_bytes)}"
    distances = f"distances {' '.join(map(str, node.distances))}" if len(node.distances) > 1 else ""
    return f"NUMA node {number}: CPUs {ranges(node.cpus) or 'none'}{memory}", distances


def topology(host: Host, policy: Policy) -> dict[str, Any]:
    """Return ``{nodes: [{title, detail, roots: [tree]}], groups: {number: {endpoints: [bdf], type}}}``.

    A tree is ``{bdf, kind, name, driver, group, link, children}``; it holds accelerators, NVSwitches, what shares a
    group with an accelerator, network and storage controllers, and the bridges above them. ``groups`` are those of its
    devices.
    """
    panels: dict[int | None, dict[str, dict[str, Any]]] = {number: {} for number in sorted(host.numa.nodes)}
    only = next(iter(panels)) if len(panels) == 1 else None
    groups: dict[str, dict[str, Any]] = {}
    for bdf, device in sorted(host.pci.devices.items()):
        kind = _kind(host, policy, device)
        if kind is None or kind == "bridge":
            continue
        number = device.numa_node if device.numa_node in panels else only
        entries = panels.setdefault(number, {})
        above: dict[str, Any] | None = None
        for name in (*device.upstream, bdf):
            known = host.pci.devices.get(name) or PciDevice(bdf=name, is_bridge=True)
            if name not in entries:
                entries[name] = _entry(known, kind if name == bdf else "bridge")
                entries[name]["is_root"] = above is None
                if above is not None:
                    above["children"].append(entries[name])
            above = entries[name]
        if device.iommu_group is not None and device.iommu_group in host.iommu.groups:
            group = host.iommu.groups[device.iommu_group]
            members = [host.pci.devices.get(member) for member in group.devices]
            endpoints = [member.bdf for member in members if member and not member.is_bridge]
            groups[str(group.id)] = {"endpoints": endpoints, "type": group.type or ""}
    nodes = []
    for number, entries in panels.items():
        title, detail = _title(number, host.numa.nodes.get(number) if number is not None else None)
        roots = [entry for entry in entries.values() if entry.pop("is_root")]
        nodes.append({"title": title, "detail": detail, "roots": roots})
    return {"nodes": nodes, "groups": groups}
