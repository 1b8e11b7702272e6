# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Why a replica does not fit, and the nearest thing that would: which host lacks least, and what would fit there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .demand import REQUIRED, Demand, Wish, unknown
from .fit import fit, suits
from .fleet import Fleet
from .state import State, threads

_SHOWN = 3
_NAMES = {"accelerators": "accelerator", "cpus": "CPU", "memory_mib": "MiB of memory"}


@dataclass(frozen=True)
class Nearest:
    """A host, what it lacks (kind to amount), and the resources that would fit there now (manifest fields)."""

    host: str
    lacks: dict[str, int]
    fits: dict[str, int]


class Explainer:
    """Explains on the fleet as it is when the plan is done; the same question is answered once."""

    def __init__(self, fleet: Fleet) -> None:
        """Look at the fleet as it is now."""
        self._fleet = fleet
        self._known: dict[object, tuple[str, dict[str, Any] | None]] = {}
        self._never: dict[object, str | None] = {}

    def why(self, wish: Wish) -> tuple[str, dict[str, Any] | None]:
        """Return why one more replica of the runtime does not fit, and the nearest that would as the plan has it."""
        key = (wish.demand, wish.hosts, wish.ports, wish.name if wish.anti_affinity == REQUIRED else "")
        if key not in self._known:
            self._known[key] = self._explain(wish)
        return self._known[key]

    def _explain(self, wish: Wish) -> tuple[str, dict[str, Any] | None]:
        fleet, demand = self._fleet, wish.demand
        if not fleet.states:
            return "there is no host", None
        missing = sorted(wish.hosts - fleet.position.keys())
        if wish.hosts and len(missing) == len(wish.hosts):
            return f"spec.placement.hosts: {unknown('host', missing[0], fleet.position)}", None
        general = (wish.demand, wish.hosts)
        if general not in self._never:
            self._never[general] = self._impossible(wish)
        if impossible := self._never[general]:
            return impossible, self._without_accelerators(wish)
        near, barred = self._sort_out(wish)
        reasons = _some([f"{fleet.name(host)} {fleet.why_not(wish, host)}" for host in barred[:_SHOWN]], len(barred))
        if not near:
            return f"no host may take it: {reasons}", None
        nearest = self._nearest(demand, near)
        away = f" but for hosts that may not take it: {reasons}" if reasons else ""
        return f"asks for {_asked(demand)}, which no host has free{away}", _told(nearest)

    def _without_accelerators(self, wish: Wish) -> dict[str, Any] | None:
        """Return the nearest where there is no accelerator at all; None where some are, which the reason names."""
        fleet, demand = self._fleet, wish.demand
        if demand.devices or not demand.accelerators or any(state.shape.accelerators for state in fleet.states):
            return None
        hosts = [host for host in range(len(fleet.states)) if fleet.why_not(wish, host) is None]
        if not hosts:
            return None
        lower = replace(demand, accelerators=0, accelerator_type=None, accelerator_memory_mib=0)
        nearest = self._nearest(lower, hosts)
        fits = {"accelerator_count": 0, **nearest.fits} if nearest.fits or not nearest.lacks else {}
        return _told(Nearest(nearest.host, {"accelerators": demand.accelerators, **nearest.lacks}, fits))

    def _sort_out(self, wish: Wish) -> tuple[list[int], list[int]]:
        """Return hosts that may take the runtime and have too little, one of each kind, and those that may not."""
        fleet, near, barred = self._fleet, [], []
        for alike in [*fleet.alike(), *fleet.closed()]:
            hosts = [host for host in alike if not wish.hosts or fleet.name(host) in wish.hosts]
            if not hosts:
                continue
            first = None
            if fleet.share(wish.demand, hosts[0]) is None:
                first = next((host for host in hosts if fleet.why_not(wish, host) is None), None)
            if first is not None:
                near.append(first)
            else:
                barred += [host for host in hosts if fleet.why_not(wish, host) is not None]
        return near, barred

    def _impossible(self, wish: Wish) -> str | None:
        """Return why no host of the fleet would do even when empty, where it is the accelerators' fault."""
        demand = wish.demand
        states = [each for each in self._fleet.states if not wish.hosts or each.capacity.host in wish.hosts]
        if demand.devices:
            return _devices(states, demand)
        units = [unit for state in states for unit in state.shape.units if unit.size]
        if not demand.accelerators:
            return None
        left_out = [each for state in states for each in state.capacity.left_out]
        if not units:
            more = f"; left out: {', '.join(left_out[0].devices)}: {left_out[0].reason}" if left_out else ""
            return f"no host has accelerators to give{more}"
        kinds = {unit.kind for unit in units}
        if demand.accelerator_type not in (None, *kinds):
            return f"accelerator_type: {unknown('accelerator', demand.accelerator_type or '', kinds)}"
        if not any(suits(unit, demand) for unit in units):
            sizes = [unit.memory_mib for unit in units if demand.accelerator_type in (None, unit.kind)]
            known = [size for size in sizes if size is not None]
            most = f"the largest has {max(known) // 1024}Gi" if known else "nobody knows how much these have"
            return f"accelerator_memory: no accelerator has {demand.accelerator_memory_mib / 1024:.4g}Gi; {most}"
        most_on_one = max(sum(u.size for u in state.shape.units if suits(u, demand)) for state in states)
        if most_on_one < demand.accelerators:
            return (
                f"accelerator_count: {demand.accelerators} on one host; no host has more than {most_on_one} "
                f"{demand.accelerator_type or 'accelerators that suit'}"
            )
        return None

    def _nearest(self, demand: Demand, hosts: list[int]) -> Nearest:
        """Return the host that lacks least: the fewest kinds of things, then the smallest part of what is asked for."""
        asked = {"accelerators": demand.accelerators, "cpus": demand.cpu, "memory_mib": demand.memory_mib}
        ranked = []
        for host in hosts:
            free = _free(self._fleet.states[host], demand)
            lacks = {kind: asked[kind] - free[kind] for kind in asked if asked[kind] > free[kind]}
            part = max((lacks[kind] / asked[kind] for kind in lacks), default=0.0)
            ranked.append((len(lacks), part, host))
        state = self._fleet.states[min(ranked)[2]]
        free = _free(state, demand)
        lacks = {kind: asked[kind] - free[kind] for kind in asked if asked[kind] > free[kind]}
        return Nearest(state.capacity.host, lacks, _that_fits(state, demand, free))


def _told(nearest: Nearest) -> dict[str, Any]:
    """Return the nearest as the plan has it."""
    what = f"lacks {', '.join(_amount(kind, amount) for kind, amount in nearest.lacks.items())}"
    if not nearest.lacks:
        what = "has enough in all, but not in whole IOMMU groups or on the NUMA nodes allowed"
    fits = {key: f"{value}Mi" if key == "memory" else value for key, value in nearest.fits.items()}
    told = ", ".join(f"{name} {value}" for name, value in fits.items())
    advice = f"; there {told} would fit" if told else ""
    return {
        "host": nearest.host,
        "lacks": nearest.lacks,
        "fits": fits,
        "text": f"nearest: {nearest.host} {what}{advice}",
    }


def _amount(kind: str, amount: int) -> str:
    plural = "" if amount == 1 or kind == "memory_mib" else "s"
    return f"{amount} {_NAMES[kind]}{plural}"


def _that_fits(state: State, demand: Demand, free: dict[str, int]) -> dict[str, int]:
    """Return the manifest's fields to lower, and how far, for the replica to fit on the host as it is now."""
    lower = replace(
        demand,
        cpu=min(demand.cpu, free["cpus"]),
        memory_mib=min(demand.memory_mib, free["memory_mib"]),
        accelerators=min(demand.accelerators, free["accelerators"]),
    )
    if lower.cpu < 1 or lower.memory_mib < 1 or (demand.accelerators and not lower.accelerators):
        return {}
    while fit(state, lower) is None:
        # Only whole groups or single nodes can be the reason now.
        if lower.accelerators > 1:
            lower = replace(lower, accelerators=lower.accelerators - 1)
        elif lower.cpu > 1:
            lower = replace(lower, cpu=lower.cpu // 2, memory_mib=max(1, lower.memory_mib // 2))
        else:
            return {}
    fields = {"accelerator_count": lower.accelerators, "cpu": lower.cpu, "memory": lower.memory_mib}
    asked = {"accelerator_count": demand.accelerators, "cpu": demand.cpu, "memory": demand.memory_mib}
    return {name: value for name, value in fields.items() if value < asked[name]}


def _free(state: State, demand: Demand) -> dict[str, int]:
    """Return what of the host could go to the demand: accelerators of one kind that suit, CPUs, memory in granules."""
    kinds: dict[object, int] = {}
    for unit in state.units:
        shape = state.shape.units[unit]
        if suits(shape, demand):
            kinds[(shape.kind, shape.memory_mib)] = kinds.get((shape.kind, shape.memory_mib), 0) + shape.size
    nodes = [
        node for node, number in enumerate(state.shape.nodes) if demand.numa_node is None or demand.numa_node == number
    ]
    granule = state.shape.granule_mib
    return {
        "accelerators": max(kinds.values(), default=0),
        "cpus": sum(threads(state.cores[node]) for node in nodes),
        "memory_mib": max(0, sum(state.memory[node] // granule * granule for node in nodes) - state.shape.vmm_mib),
    }


def _devices(states: list[State], demand: Demand) -> str | None:
    wanted = set(demand.devices)
    for state in states:
        mine = [unit for unit in state.capacity.units if wanted.intersection(unit.devices)]
        if wanted <= {bdf for unit in mine for bdf in unit.devices}:
            given = sum(len(unit.accelerators) for unit in mine)
            if demand.accelerators in (0, given):
                return None
            return (
                f"spec.placement.devices are {given} accelerators with all of their IOMMU groups on "
                f"{state.capacity.host}, and accelerator_count is {demand.accelerators}"
            )
    left_out = [each for state in states for each in state.capacity.left_out if wanted.intersection(each.devices)]
    if left_out:
        return f"spec.placement.devices: {left_out[0].reason}"
    return f"spec.placement.devices: no host has {', '.join(sorted(wanted))} to give"


def _asked(demand: Demand) -> str:
    parts = [f"{demand.cpu} CPUs", f"{demand.memory_mib} MiB"]
    if demand.accelerators:
        memory = f" of {demand.accelerator_memory_mib / 1024:.4g}Gi" if demand.accelerator_memory_mib else ""
        parts.insert(0, f"{demand.accelerators} x {demand.accelerator_type or 'any accelerator'}{memory}")
    where = f" on NUMA node {demand.numa_node}" if demand.numa_node is not None else ""
    return ", ".join(parts) + where


def _some(reasons: list[str], count: int) -> str:
    more = f" and {count - len(reasons)} more hosts" if count > len(reasons) else ""
    return "; ".join(reasons) + more
