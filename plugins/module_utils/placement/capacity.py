# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a host has to give to runtimes, in a few kilobytes: cores and memory by NUMA node, and passthrough units.

A unit is what can only be given away as a whole: one IOMMU group, or all groups of one card, because the card is reset
with all of its functions (Documentation/driver-api/vfio.rst). What the host keeps for itself is taken off already.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .data import DataError, integer, items, mapping, optional, text, texts, whole_numbers

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node with CPUs. ``cores`` are whole cores: the numbers of each core's logical CPUs.

    ``distances`` are to the capacity's nodes in their order, as the firmware tells them; 10 is the node itself.
    """

    node: int
    cores: tuple[tuple[int, ...], ...]
    memory_mib: int
    distances: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator of a unit. ``memory_mib`` None: nobody knows."""

    bdf: str
    type: str
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What goes to one replica as a whole. ``devices`` are all endpoints of ``groups``, accelerators or not.

    ``switch`` is the address of the nearest PCIe switch's upstream port, ``island`` names the NVLink domain.
    """

    groups: tuple[int, ...]
    devices: tuple[str, ...]
    accelerators: tuple[Device, ...]
    node: int | None = None
    switch: str | None = None
    island: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Devices that were meant and that cannot be given away, and why."""

    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one host gives. ``hugepage_kib`` is the size of the pages that all of its memory comes in; 0: any.

    ``vmm_mib`` of the memory go with each replica to its virtual machine monitor, beside what the guest gets.
    """

    host: str
    nodes: tuple[Node, ...]
    units: tuple[Unit, ...] = ()
    hugepage_kib: int = 0
    left_out: tuple[LeftOut, ...] = ()
    vmm_mib: int = 0

    @property
    def cpus(self) -> int:
        """Return how many logical CPUs there are to give."""
        return sum(len(core) for node in self.nodes for core in node.cores)

    @property
    def memory_mib(self) -> int:
        """Return how much memory there is to give."""
        return sum(node.memory_mib for node in self.nodes)

    @property
    def accelerators(self) -> int:
        """Return how many accelerators there are to give."""
        return sum(len(unit.accelerators) for unit in self.units)


def as_dict(capacity: Capacity) -> dict[str, Any]:
    """Return a capacity as plain data for JSON."""
    return {"schema_version": SCHEMA_VERSION, **asdict(capacity)}


def from_dict(data: Any) -> Capacity:
    """Return the capacity that `as_dict` made ``data`` of. Raises DataError, one line."""
    given = mapping(data, "capacity")
    version = given.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"capacity: schema_version is {version!r}, expected {SCHEMA_VERSION}; run host_capacity of this collection"
        )
    host = text(given, "host", "capacity")
    where = f"capacity of {host}"
    capacity = Capacity(
        host=host,
        nodes=tuple(_node(each, where) for each in items(given, "nodes", where)),
        units=tuple(_unit(each, where) for each in items(given, "units", where)),
        hugepage_kib=integer(given, "hugepage_kib", where),
        left_out=tuple(
            LeftOut(texts(each, "devices", where), text(each, "reason", where))
            for each in items(given, "left_out", where)
        ),
        vmm_mib=integer(given, "vmm_mib", where) if "vmm_mib" in given else 0,
    )
    _check(capacity, where)
    return capacity


def _node(data: Any, where: str) -> Node:
    given = mapping(data, where)
    cores = given.get("cores")
    if not isinstance(cores, list | tuple) or not all(isinstance(core, list | tuple) and core for core in cores):
        raise DataError(f"{where}: cores is {str(cores)[:40]!r}, expected a list of lists of CPU numbers")
    whole_numbers([cpu for core in cores for cpu in core], f"{where}, cores")
    return Node(
        node=integer(given, "node", where),
        cores=tuple(map(tuple, cores)),
        memory_mib=integer(given, "memory_mib", where),
        distances=whole_numbers(given.get("distances", ()), where),
    )


def _unit(data: Any, where: str) -> Unit:
    given = mapping(data, where)
    node = given.get("node")
    return Unit(
        groups=whole_numbers(given.get("groups"), where),
        devices=texts(given, "devices", where),
        accelerators=tuple(
            Device(
                text(each, "bdf", where),
                text(each, "type", where),
                None if each.get("memory_mib") is None else integer(each, "memory_mib", where),
            )
            for each in items(given, "accelerators", where)
        ),
        node=None if node is None else integer(given, "node", where),
        switch=optional(given, "switch", where),
        island=optional(given, "island", where),
    )


def _check(capacity: Capacity, where: str) -> None:
    """Refuse data in which something is there twice: it would be given out twice."""
    parts: dict[str, list[int] | list[str]] = {
        "node": [node.node for node in capacity.nodes],
        "CPU": [cpu for node in capacity.nodes for core in node.cores for cpu in core],
        "group": [group for unit in capacity.units for group in unit.groups],
        "device": [bdf for unit in capacity.units for bdf in unit.devices],
    }
    for kind, names in parts.items():
        if len(set(names)) < len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise DataError(f"{where}: {kind} {twice} is there twice; read the host again with host_capacity")
