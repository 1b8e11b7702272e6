# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is free on one host, and giving parts of it out and back. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from .capacity import Capacity
from .shape import Shape

Core = tuple[int, ...]
Signature = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Share:
    """A part of one host in numbers that are good on every host with the same signature.

    ``cores`` and ``memory`` are (position of the node, cores or MiB); ``units`` are positions in the capacity. Lower
    ``tier`` is nearer together; ``excess_mib`` is accelerator memory beyond what was asked for. ``vmm`` is what the
    virtual machine monitor takes, as ``memory`` is what its guest gets.
    """

    cpu_count: int
    cores: tuple[tuple[int, int], ...]
    memory: tuple[tuple[int, int], ...]
    units: tuple[int, ...] = ()
    tier: int = 0
    excess_mib: int = 0
    vmm: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """A share with the host's own numbers: ``cores`` and ``memory`` are (position of the node, cores or MiB)."""

    cpu_count: int
    cores: tuple[tuple[int, tuple[Core, ...]], ...]
    memory: tuple[tuple[int, int], ...]
    units: tuple[int, ...] = ()
    vmm: tuple[tuple[int, int], ...] = ()

    @property
    def cpus(self) -> list[int]:
        """Return the logical CPUs, sorted."""
        return sorted(cpu for _node, cores in self.cores for core in cores for cpu in core)

    @property
    def memory_mib(self) -> int:
        """Return the memory of all nodes together."""
        return sum(size for _node, size in self.memory)


@dataclass
class State:
    """What is free on a host: cores and MiB by position of the node, units by position in the capacity, all sorted."""

    capacity: Capacity
    shape: Shape
    shape_number: int = 0
    cores: list[list[Core]] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with an empty host."""
        self.cores = [sorted(node.cores) for node in self.capacity.nodes]
        self.memory = [node.memory_mib for node in self.capacity.nodes]
        self.units = list(range(len(self.capacity.units)))

    @cached_property
    def core_of(self) -> dict[int, tuple[int, Core]]:
        """Return the position of the node and the core of each logical CPU, given out or not."""
        return {
            cpu: (position, core)
            for position, node in enumerate(self.capacity.nodes)
            for core in node.cores
            for cpu in core
        }

    @cached_property
    def unit_of(self) -> dict[str, int]:
        """Return the unit's position for each device, given out or not."""
        return {bdf: position for position, unit in enumerate(self.capacity.units) for bdf in unit.devices}

    def signature(self) -> Signature:
        """Return what decides what fits: hosts with equal ones are equally full and of one shape."""
        if self.shape.has_mixed_cores:
            # Which cores are left matters then: some have two threads, some one.
            sizes = tuple(size for cores in self.cores for size in (-1, *map(len, cores)))
        else:
            sizes = tuple(map(len, self.cores))
        return self.shape_number, sizes, tuple(self.memory), tuple(self.units)

    @property
    def free_accelerators(self) -> int:
        """Return how many accelerators are free."""
        return sum(self.shape.units[unit].size for unit in self.units)

    def grant(self, share: Share) -> Grant:
        """Return the share in this host's numbers: the lowest free cores of each node."""
        cores = tuple((node, tuple(self.cores[node][:count])) for node, count in share.cores)
        return Grant(share.cpu_count, cores, share.memory, share.units, share.vmm)

    def take(self, grant: Grant) -> None:
        """Give it out. It must be free (`holds`)."""
        for node, cores in grant.cores:
            if self.cores[node][: len(cores)] == list(cores):
                del self.cores[node][: len(cores)]
            else:
                gone = set(cores)
                self.cores[node] = [core for core in self.cores[node] if core not in gone]
        for node, size in (*grant.memory, *grant.vmm):
            self.memory[node] -= size
        for unit in grant.units:
            self.units.remove(unit)

    def put_back(self, grant: Grant) -> None:
        """Take it back."""
        for node, cores in grant.cores:
            self.cores[node] = sorted([*self.cores[node], *cores])
        for node, size in (*grant.memory, *grant.vmm):
            self.memory[node] += size
        self.units = sorted([*self.units, *grant.units])

    def holds(self, grant: Grant) -> str | None:
        """Return what of it is not free, as the end of the sentence "the host ..."; None when all is."""
        for node, cores in grant.cores:
            taken = set(cores).difference(self.cores[node])
            if taken:
                return f"has given CPU {min(taken)[0]} to another"
        sizes = dict(grant.memory)
        for node, size in grant.vmm:
            sizes[node] = sizes.get(node, 0) + size
        for node, size in sorted(sizes.items()):
            if size > self.memory[node]:
                number = self.shape.nodes[node]
                return f"has {self.memory[node]} MiB left on NUMA node {number}, not the {size} MiB given out there"
        for unit in grant.units:
            if unit not in self.units:
                groups = ", ".join(map(str, self.capacity.units[unit].groups))
                return f"has given IOMMU group {groups} to another"
        return None


def threads(cores: Iterable[Core]) -> int:
    """Return how many logical CPUs the cores have."""
    return sum(map(len, cores))
