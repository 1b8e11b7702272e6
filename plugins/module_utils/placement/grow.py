# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A split for replicas without accelerators: what is left of their host is divided among the new ones.

Only on hosts without accelerators: elsewhere every core and MiB belongs to one. Each grows on the nodes it is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .demand import SPLIT, Options
from .fleet import Fleet, Placed
from .state import Grant, State

_STEP_MIB = 256


def grow(fleet: Fleet, keys: Iterable[tuple[str, int]], options: Options) -> None:
    """Enlarge the placements ``keys`` as ``options`` say."""
    by_host: dict[int, list[Placed]] = {}
    for key in sorted(keys):
        placed = fleet.placed[key]
        if not fleet.states[placed.host].shape.accelerators:
            by_host.setdefault(placed.host, []).append(placed)
    for host, mine in sorted(by_host.items()):
        state = fleet.states[host]
        grants = [placed.grant for placed in mine]
        for node in range(len(state.cores)):
            if options.cpu == SPLIT:
                _cores(state, node, grants)
            if options.memory == SPLIT:
                _memory(state, node, grants)
        for placed in mine:
            fleet.remove(placed)
        for placed, grant in zip(mine, grants, strict=True):
            fleet.place(replace(placed, grant=grant))


def _cores(state: State, node: int, grants: list[Grant]) -> None:
    """Deal the node's free cores out to the grants that are on it."""
    here = [index for index, grant in enumerate(grants) if any(each == node for each, _cores in grant.cores)]
    start = 0
    for turn, index in enumerate(here):
        count = (len(state.cores[node]) + len(here) - 1 - turn) // len(here)
        more = tuple(state.cores[node][start : start + count])
        start += count
        cores = tuple(
            (each, tuple(sorted((*mine, *more)) if each == node else mine)) for each, mine in grants[index].cores
        )
        larger = replace(grants[index], cores=cores)
        grants[index] = replace(larger, cpu_count=len(larger.cpus))


def _memory(state: State, node: int, grants: list[Grant]) -> None:
    """Deal the node's free memory out to the grants that are on it, in steps that read well."""
    here = [index for index, grant in enumerate(grants) if any(each == node for each, _size in grant.memory)]
    step = max(_STEP_MIB, state.shape.granule_mib)
    more = state.memory[node] // max(1, len(here)) // step * step
    for index in here:
        memory = tuple((each, size + more if each == node else size) for each, size in grants[index].memory)
        grants[index] = replace(grants[index], memory=memory)
