# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From all that was read of a host to its capacity: what is kept, what may be passed through, what lies near what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..host.model import Host, PciDevice
from ..vfio import refuse as refusals
from ..vfio.choose import ACCELERATOR_CLASSES, ALL, Choice, SelectionError, choose, kind
from ..vfio.groups import SHARED, Members, expand
from .accelerators import KNOWN, Accelerator, identify
from .capacity import Capacity, Device, LeftOut, Node, Unit

MIB = 1024**2
_RESERVE_MEMORY_MIB, _RESERVE_SHARE, _RESERVE_LIMIT = 2048, 50, 4
_CORES_THAT_SPARE_ONE = 8
_VMM_MIB, _VMM_EMULATED_MIB = 256, 768
_HUGEPAGE_SHARE = 4


@dataclass(frozen=True)
class Policy:
    """What of a host is for runtimes.

    ``devices`` and ``exclude`` are selectors as role vfio has them. ``reserve_cores`` are kept on each NUMA node,
    ``reserve_memory_mib`` on the whole host; None is a rule: one core of a node with 8 or more, and 2 GiB and a
    fiftieth of the memory, at most a quarter. ``hugepages``: auto gives memory out of the hugepage pool where it holds
    a quarter of the memory or more, always and never do as they say. ``vmm_memory_mib`` goes to the virtual machine
    monitor of each replica; None is 256 MiB, or 768 MiB where KVM does not work.
    """

    devices: tuple[str, ...] = (ALL,)
    exclude: tuple[str, ...] = ()
    vfio: refusals.Policy = field(default_factory=refusals.Policy)
    reserve_cores: int | None = None
    reserve_memory_mib: int | None = None
    hugepages: str = "auto"
    vmm_memory_mib: int | None = None
    accelerators: Mapping[str, Accelerator] = field(default_factory=lambda: KNOWN)


def capacity_of(host: Host, name: str, policy: Policy) -> Capacity:
    """Return what the host, ``name`` in the inventory, gives to runtimes. Raises choose.SelectionError."""
    page_kib, pool_mib = _hugepages(host, policy.hugepages)
    nodes = _nodes(host, policy, page_kib, pool_mib)
    units, left_out = _units(host, nodes, policy)
    return Capacity(name, nodes, units, page_kib, left_out, _vmm(host, policy, page_kib))


def _vmm(host: Host, policy: Policy, page_kib: int) -> int:
    """Return what a monitor itself takes of the memory that is given out; nothing of hugepages, which are its guest's.

    Measured with QEMU 7.2: 50 MB before its guest boots; emulating one that serves vLLM, 760 MB, most of it code
    that was translated. Page tables, a five-hundredth of the guest's memory, come out of the host's reserve.
    """
    if page_kib:
        return 0
    if policy.vmm_memory_mib is not None:
        return policy.vmm_memory_mib
    return _VMM_EMULATED_MIB if host.kvm.works is False else _VMM_MIB


def _hugepages(host: Host, use: str) -> tuple[int, dict[int, int]]:
    """Return the page size in KiB and MiB for each NUMA node; 0 when ordinary memory is given out."""
    pools: dict[int, dict[int, int]] = {}
    for pool in host.memory.hugepages:
        if pool.node is not None or not host.numa.nodes:
            per_node = pools.setdefault(pool.size_bytes, {})
            number = pool.node or 0
            per_node[number] = per_node.get(number, 0) + (pool.total or 0) * pool.size_bytes // MIB
    if not pools or use == "never":
        return 0, {}
    size, per_node = max(pools.items(), key=lambda item: (sum(item[1].values()), item[0]))
    total = (host.memory.total_bytes or 0) // MIB
    if sum(per_node.values()) * _HUGEPAGE_SHARE < total and use == "auto":
        return 0, {}
    return size // 1024, per_node


def _nodes(host: Host, policy: Policy, page_kib: int, pool_mib: dict[int, int]) -> tuple[Node, ...]:
    """Return the nodes that have CPUs; memory on others (a GPU's own, CXL) is not for guests."""
    online = set(host.cpu.online)
    cores = [tuple(sorted(set(core.cpus) & online)) for core in host.cpu.cores]
    missing = online - {cpu for core in cores for cpu in core}
    cores = sorted([core for core in cores if core] + [(cpu,) for cpu in missing])
    total_mib = (host.memory.total_bytes or 0) // MIB
    sizes: dict[int, tuple[set[int], int, tuple[int, ...]]] = {
        number: (set(node.cpus) & online, (node.memory_bytes or 0) // MIB, node.distances)
        for number, node in sorted(host.numa.nodes.items())
        if set(node.cpus) & online
    }
    if not sizes:
        sizes = {0: (online, total_mib, ())}
    all_mib = sum(size for _cpus, size, _distances in sizes.values())
    kept = policy.reserve_memory_mib
    if kept is None:
        kept = min(_RESERVE_MEMORY_MIB + all_mib // _RESERVE_SHARE, all_mib // _RESERVE_LIMIT)
    order = sorted(host.numa.nodes)
    nodes = []
    for number, (cpus, size_mib, distances) in sizes.items():
        mine = [core for core in cores if core[0] in cpus]
        spare = policy.reserve_cores
        if spare is None:
            spare = 1 if len(mine) >= _CORES_THAT_SPARE_ONE else 0
        # Rounded up: the sum over the nodes is never less than what is to be kept.
        share = -(-kept * size_mib // all_mib) if all_mib else 0
        memory = pool_mib.get(number, 0) if page_kib else _rounded(max(0, size_mib - share))
        known = tuple(far for other, far in zip(order, distances, strict=False) if other in sizes)
        nodes.append(Node(number, tuple(mine[spare:]), memory, known))
    return tuple(nodes)


def _rounded(size_mib: int) -> int:
    """Return a node's memory rounded down, for the next kernel, which finds a few MiB less, must not move anything."""
    step = 1024 if size_mib >= 16 * 1024 else 64
    return size_mib // step * step


def _units(host: Host, nodes: Sequence[Node], policy: Policy) -> tuple[tuple[Unit, ...], tuple[LeftOut, ...]]:
    try:
        choice = choose(host, policy.devices, policy.exclude, policy.vfio.vendor)
    except SelectionError:
        # A host without accelerators is a host, too; a typing error in another selector is said.
        if set(policy.devices) - {ALL}:
            raise
        return (), ()
    units, left_out = [], []
    for members in _cards(host, expand(host, choice)):
        reasons = [each for each in refusals.refuse(host, members, choice, policy.vfio) if each.code != refusals.IN_USE]
        devices = tuple(sorted(bdf for group in members for bdf in group.devices))
        if reasons:
            left_out.append(LeftOut(devices, str(reasons[0])))
        else:
            units.append(_unit(host, nodes, members, choice, policy))
    return tuple(units), tuple(left_out)


def _cards(host: Host, groups: Iterable[Members]) -> list[list[Members]]:
    """Return the groups, those together that hold functions of one card."""
    cards: list[list[Members]] = []
    for members in groups:
        slots = _slots(host, members)
        touching = [card for card in cards if any(slots & _slots(host, each) for each in card)]
        cards = [card for card in cards if card not in touching]
        cards.append([*(each for card in touching for each in card), members])
    return cards


def _slots(host: Host, members: Members) -> set[str]:
    """Return the cards whose functions are in the group; a virtual function is a card of its own."""
    taken = [host.pci.devices[bdf] for bdf in members.devices if members.reasons[bdf] != SHARED]
    return {each.slot_address if each.physical_function is None else each.bdf for each in taken}


def _unit(host: Host, nodes: Sequence[Node], members: Sequence[Members], choice: Choice, policy: Policy) -> Unit:
    devices = tuple(sorted(bdf for group in members for bdf in group.devices))
    found = [host.pci.devices[bdf] for bdf in devices if bdf in choice.chosen]
    accelerators = [each for each in found if kind(each) in ACCELERATOR_CLASSES]
    kinds = {each.bdf: identify(each.id, policy.accelerators) for each in accelerators}
    first = (accelerators or found)[0]
    linked = bool(kinds) and all(each.is_nvlinked for each in kinds.values())
    return Unit(
        groups=tuple(sorted(group.group for group in members if group.group is not None)),
        devices=devices,
        accelerators=tuple(Device(bdf, each.type, each.memory_mib) for bdf, each in sorted(kinds.items())),
        node=_near(host, nodes, first),
        switch=_switch(first),
        # The modules of one board reach each other directly or by its NVSwitches.
        island="nvlink" if linked else None,
    )


def _near(host: Host, nodes: Sequence[Node], device: PciDevice) -> int | None:
    """Return the node whose CPUs are nearest to the device."""
    if len(nodes) == 1:
        return nodes[0].node
    numbers = [node.node for node in nodes]
    if device.numa_node in numbers:
        return device.numa_node
    own = host.numa.nodes.get(-1 if device.numa_node is None else device.numa_node)
    if own is None or not own.distances:
        return None
    order = sorted(host.numa.nodes)
    distance = dict(zip(order, own.distances, strict=False))
    return min(numbers, key=lambda number: (distance.get(number, 255), number))


def _switch(device: PciDevice) -> str | None:
    """Return the upstream port of the switch right above: root port, upstream port, downstream port, device."""
    return device.upstream[-2] if len(device.upstream) >= 3 else None
