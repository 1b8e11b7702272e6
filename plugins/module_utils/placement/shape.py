# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What stays the same about a host while it fills: its units, and the share of the host that goes with each.

Hosts of one shape are alike to the planner, so what is found out about one holds for all that are equally full.
"""

from __future__ import annotations

from dataclasses import dataclass

from .capacity import Capacity


@dataclass(frozen=True, slots=True)
class UnitShape:
    """A unit without its addresses. ``switch`` counts from 0 on each host; ``share_*`` go with a split.

    ``kind`` and ``memory_mib`` are those of its accelerators: the first one's type and the smallest memory.
    """

    size: int
    kind: str
    memory_mib: int | None
    node: int | None
    switch: int | None
    island: str | None
    share_cores: int
    share_memory_mib: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Node numbers, granule of memory in MiB, distances, units, and what the empty host has (for the strategy).

    ``vmm_mib`` go to the virtual machine monitor of each replica.
    ``threads`` are the numbers of threads that cores have: one number, but for processors with two kinds of cores.
    """

    nodes: tuple[int, ...]
    granule_mib: int
    distances: tuple[tuple[int, ...], ...]
    units: tuple[UnitShape, ...]
    cores: int
    memory_mib: int
    threads: tuple[int, ...] = ()
    vmm_mib: int = 0

    @property
    def has_mixed_cores(self) -> bool:
        """Return whether some cores have more threads than others."""
        return len(self.threads) > 1

    @property
    def accelerators(self) -> int:
        """Return how many accelerators the host has."""
        return sum(unit.size for unit in self.units)


def shape_of(capacity: Capacity) -> Shape:
    """Return the host's shape."""
    numbers = tuple(node.node for node in capacity.nodes)
    granule = max(1, capacity.hugepage_kib // 1024)
    return Shape(
        nodes=numbers,
        granule_mib=granule,
        distances=tuple(node.distances for node in capacity.nodes),
        units=_units(capacity, granule),
        cores=sum(len(node.cores) for node in capacity.nodes),
        memory_mib=capacity.memory_mib,
        threads=tuple(sorted({len(core) for node in capacity.nodes for core in node.cores})),
        vmm_mib=capacity.vmm_mib,
    )


def _units(capacity: Capacity, granule: int) -> tuple[UnitShape, ...]:
    """Return the units' shapes. A share is the unit's part of its node, or of the host where the node is unknown."""
    cores = {node.node: len(node.cores) for node in capacity.nodes}
    memory = {node.node: node.memory_mib for node in capacity.nodes}
    beside: dict[int | None, int] = {}
    for unit in capacity.units:
        beside[unit.node] = beside.get(unit.node, 0) + len(unit.accelerators)
    everywhere = None in beside
    every = sum(beside.values())
    switches: dict[str, int] = {}
    shapes = []
    for unit in capacity.units:
        size, node = len(unit.accelerators), unit.node
        whole = everywhere or node is None
        all_cores = sum(cores.values()) if whole else cores.get(node or 0, 0)
        all_memory = capacity.memory_mib if whole else memory.get(node or 0, 0)
        parts = max(1, every if whole else beside[node])
        shapes.append(
            UnitShape(
                size=size,
                kind=unit.accelerators[0].type if unit.accelerators else "",
                memory_mib=_least(tuple(each.memory_mib for each in unit.accelerators)),
                node=node if node in cores else None,
                switch=None if unit.switch is None else switches.setdefault(unit.switch, len(switches)),
                island=unit.island,
                share_cores=all_cores * size // parts,
                share_memory_mib=all_memory * size // parts // granule * granule,
            )
        )
    return tuple(shapes)


def _least(sizes: tuple[int | None, ...]) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None
