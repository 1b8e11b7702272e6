# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does one replica fit on one host, and where there? Accelerators first, then CPUs and memory beside them.

Accelerators of one replica are of one kind, and where they can be under one PCIe switch, or else in one NVLink island,
or else on one NUMA node. CPUs (whole cores) and memory come from the accelerators' nodes; from other nodes only where
those have too little, and then from the nearest first. Among equally near places the tightest is taken, so that whole
switches, nodes and islands stay free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .demand import SPREAD, STRICT, Demand
from .shape import UnitShape
from .state import Share, State

_Parts = tuple[tuple[int, int], ...]
_SAME: list[Callable[[UnitShape], object]] = [
    lambda unit: unit.switch,
    lambda unit: None if unit.island is None else (unit.island, unit.node),
    lambda unit: unit.island,
    lambda unit: unit.node,
]
ANYWHERE = len(_SAME)


def fit(state: State, demand: Demand) -> Share | None:
    """Return the best place for the demand on the host as it is now; None when it does not fit."""
    by_tier: dict[int, list[tuple[int, ...]]] = {}
    for level, units in _choices(state, demand):
        by_tier.setdefault(level, []).append(units)
    for level, choices in sorted(by_tier.items()):
        for spill in (False, True):
            if spill and (demand.numa == STRICT or demand.numa_node is not None):
                continue
            for units in choices:
                share = _beside(state, demand, units, spill, 2 * level + spill)
                if share is not None:
                    return share
    return None


def _choices(state: State, demand: Demand) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the sets of units that would do, the best of each level first."""
    if demand.devices:
        units = tuple(
            unit for unit in state.units if set(state.capacity.units[unit].devices).intersection(demand.devices)
        )
        found = {bdf for unit in units for bdf in state.capacity.units[unit].devices}
        given = sum(state.shape.units[unit].size for unit in units)
        if found.issuperset(demand.devices) and demand.accelerators in (0, given):
            yield 0, units
        return
    if not demand.accelerators:
        yield 0, ()
        return
    kinds: dict[tuple[int, str], list[int]] = {}
    for unit in state.units:
        shape = state.shape.units[unit]
        if suits(shape, demand) and demand.numa_node in (None, shape.node):
            kinds.setdefault((shape.memory_mib or 0, shape.kind), []).append(unit)
    for _kind, units_of_kind in sorted(kinds.items()):
        if sum(state.shape.units[unit].size for unit in units_of_kind) >= demand.accelerators:
            yield from _near_each_other(state, demand, units_of_kind)


def suits(unit: UnitShape, demand: Demand) -> bool:
    """Return whether the unit's accelerators are what is asked for, however many there are."""
    if not unit.size or demand.accelerator_type not in (None, unit.kind):
        return False
    return not demand.accelerator_memory_mib or (unit.memory_mib or 0) >= demand.accelerator_memory_mib


def _near_each_other(state: State, demand: Demand, units: list[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    shapes, count = state.shape.units, demand.accelerators
    # How many are free beside each unit: the lower, the less is broken up by taking it.
    crowd = [_sizes(state, units, same) for same in _SAME]
    for level, same in enumerate(_SAME):
        domains: dict[object, list[int]] = {}
        for unit in units:
            key = same(shapes[unit])
            if key is not None:
                domains.setdefault(key, []).append(unit)
        ordered = sorted(domains.values(), key=lambda domain: _tightness(shapes, domain, crowd))
        for domain in ordered:
            chosen = exactly([(unit, shapes[unit].size) for unit in domain], count)
            if chosen is not None:
                yield 0 if count == 1 else level, chosen
    chosen = exactly([(unit, shapes[unit].size) for unit in units], count)
    if chosen is not None:
        yield 0 if count == 1 else ANYWHERE, chosen


def _sizes(state: State, units: list[int], same: Callable[[UnitShape], object]) -> dict[object, int]:
    sizes: dict[object, int] = {}
    for unit in units:
        key = same(state.shape.units[unit])
        sizes[key] = sizes.get(key, 0) + state.shape.units[unit].size
    return sizes


def _tightness(
    shapes: tuple[UnitShape, ...], domain: list[int], crowd: list[dict[object, int]]
) -> tuple[list[int], int]:
    first = shapes[domain[0]]
    return [sizes[same(first)] for same, sizes in zip(_SAME, crowd, strict=True)], domain[0]


def exactly(units: list[tuple[int, int]], count: int) -> tuple[int, ...] | None:
    """Return the first units (position, size) whose sizes make ``count``, large ones first; None when none do."""
    if all(size == 1 for _unit, size in units):
        return tuple(unit for unit, _size in units[:count]) if len(units) >= count else None
    # All sums that can be reached, each with the units that make it: as many as there are accelerators at most.
    reached: dict[int, tuple[int, ...]] = {0: ()}
    for unit, size in sorted(units, key=lambda each: (-each[1], each[0])):
        for total, chosen in sorted(reached.items()):
            if total + size <= count and total + size not in reached:
                reached[total + size] = (*chosen, unit)
    found = reached.get(count)
    return None if found is None else tuple(sorted(found))


def _beside(state: State, demand: Demand, units: tuple[int, ...], spill: bool, tier: int) -> Share | None:
    """Return the units with CPUs and memory beside them, their share of the host before the bare demand."""
    shapes = [state.shape.units[unit] for unit in units]
    cores = sum(shape.share_cores for shape in shapes) if demand.split_cpu and demand.accelerators else 0
    memory = sum(shape.share_memory_mib for shape in shapes) if demand.split_memory and demand.accelerators else 0
    granule, monitor_mib = state.shape.granule_mib, state.shape.vmm_mib
    memory = max(0, memory - monitor_mib) // granule * granule
    excess = sum((shape.memory_mib or 0) - demand.accelerator_memory_mib for shape in shapes)
    for want_cores, want_memory in dict.fromkeys(((cores, memory), (0, 0))):
        for order, weights in _orders(state, demand, shapes, spill):
            taken = _cores(state, demand, want_cores, order, weights)
            monitor = next((node for node in order if state.memory[node] >= monitor_mib), None)
            if taken is None or monitor is None:
                continue
            vmm = ((monitor, monitor_mib),) if monitor_mib else ()
            size = _memory(state, max(demand.memory_mib, want_memory), order, weights, dict(vmm))
            if size is None:
                continue
            cpus = sum(sum(map(len, state.cores[node][:count])) for node, count in taken)
            return Share(cpus if want_cores else demand.cpu, taken, size, units, tier, excess, vmm)
    return None


def _orders(
    state: State, demand: Demand, shapes: list[UnitShape], spill: bool
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield nodes in the order to ask them, and how much of the demand belongs on each (0: only what is left over)."""
    numbers = state.shape.nodes
    if demand.numa_node is not None:
        if demand.numa_node in numbers:
            yield (numbers.index(demand.numa_node),), (1,)
        return
    weights = [0] * len(numbers)
    for shape in shapes:
        if shape.node is not None:
            weights[numbers.index(shape.node)] += max(1, shape.size)
    near = [node for node, weight in enumerate(weights) if weight]
    if near:
        far = [node for node in range(len(numbers)) if not weights[node]] if spill else []
        far.sort(key=lambda node: (min(_distance(state, each, node) for each in near), node))
        yield (*near, *far), tuple(weights[node] for node in (*near, *far))
        return
    fullest = sorted(range(len(numbers)), key=lambda node: (len(state.cores[node]), state.memory[node], node))
    if demand.strategy == SPREAD or spill:
        fullest.reverse()
    if not spill:
        yield from (((node,), (1,)) for node in fullest)
    else:
        yield tuple(fullest), (0,) * len(fullest)


def _distance(state: State, one: int, other: int) -> int:
    distances = state.shape.distances[one]
    return distances[other] if other < len(distances) else 255


def _cores(
    state: State, demand: Demand, want_cores: int, order: tuple[int, ...], weights: tuple[int, ...]
) -> _Parts | None:
    """Return cores by node: at least ``want_cores`` whole cores and at least the demand's CPUs."""
    taken: dict[int, int] = {}
    cpus, cores, total = demand.cpu, want_cores, sum(weights)
    # First what belongs on each node, then what is left over wherever it is free.
    for node, weight in [*zip(order, weights, strict=True), *((node, None) for node in order)]:
        if cpus <= 0 and cores <= 0:
            break
        free, used = state.cores[node], taken.get(node, 0)
        if weight is None:
            target_cpus, target_cores = cpus, cores
        else:
            target_cpus, target_cores = _part(cpus, weight, total), _part(cores, weight, total)
            total -= weight
        count, got = used, 0
        while count < len(free) and (got < target_cpus or count - used < target_cores):
            got += len(free[count])
            count += 1
        cpus, cores = cpus - got, cores - (count - used)
        if count > used:
            taken[node] = count
    return tuple(sorted(taken.items())) if cpus <= 0 and cores <= 0 else None


def _memory(
    state: State, want_mib: int, order: tuple[int, ...], weights: tuple[int, ...], kept: dict[int, int]
) -> _Parts | None:
    """Return MiB by node in whole granules (hugepages), leaving what is ``kept``."""
    granule = state.shape.granule_mib
    pages, total = -(-want_mib // granule), sum(weights)
    taken: dict[int, int] = {}
    for node, weight in [*zip(order, weights, strict=True), *((node, None) for node in order)]:
        if weight is None:
            target = pages
        else:
            target = _part(pages, weight, total)
            total -= weight
        got = min(target, (state.memory[node] - kept.get(node, 0)) // granule - taken.get(node, 0))
        if got > 0:
            taken[node] = taken.get(node, 0) + got
            pages -= got
    return tuple((node, count * granule) for node, count in sorted(taken.items())) if pages <= 0 else None


def _part(amount: int, weight: int, total: int) -> int:
    return -(-max(0, amount) * weight // total) if total else 0
