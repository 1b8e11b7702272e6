# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a Runtime asks for: one replica's demand, how many replicas, where they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from .data import DataError

DEMAND, SPLIT = "demand", "split"
PACK, SPREAD = "pack", "spread"
PREFER, STRICT = "prefer", "strict"
NONE, PREFERRED, REQUIRED = "none", "preferred", "required"
_LONGEST_NAME = 59  # ".999" still goes into an instance name of 63


@dataclass(frozen=True)
class Options:
    """How to plan; docs/plan.md explains each.

    ``replicas`` are numbers wanted by runtime, ``move`` runtimes that may be placed anew, ``drain`` hosts to empty and
    ``absent`` hosts that could not be read: what is on them stays as it is. ``resize`` divides CPUs and memory again.
    """

    cpu: str = DEMAND
    memory: str = DEMAND
    accelerators: str = DEMAND
    strategy: str = PACK
    numa: str = PREFER
    preempt: bool = False
    resize: bool = False
    replicas: Mapping[str, int] = field(default_factory=dict)
    move: frozenset[str] = frozenset()
    drain: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Demand:
    """What one replica asks for; equal demands fit in equal places. Sizes in MiB, ``cpu`` virtual CPUs.

    With ``split_cpu`` and ``split_memory`` a replica with accelerators gets their share of their host, and at least
    what it asks for.
    """

    cpu: int
    memory_mib: int
    accelerators: int
    accelerator_type: str | None = None
    accelerator_memory_mib: int = 0
    devices: tuple[str, ...] = ()
    numa_node: int | None = None
    strategy: str = PACK
    numa: str = PREFER
    split_cpu: bool = False
    split_memory: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what a placement keeps of it: when this changes, the replica is placed anew."""
        return {
            "cpu": self.cpu,
            "memory_mib": self.memory_mib,
            "accelerator_count": self.accelerators,
            "accelerator_type": self.accelerator_type,
            "accelerator_memory_mib": self.accelerator_memory_mib,
        }

    @property
    def slots(self) -> int:
        """Return what it is worth to place it: its accelerators, or one."""
        return max(1, self.accelerators)


@dataclass(frozen=True)
class Wish:
    """A Runtime as the planner sees it. ``hosts`` empty: any.

    ``ports`` are those of its host that each replica listens on.
    """

    name: str
    demand: Demand
    least: int
    most: int
    priority: int = 0
    hosts: frozenset[str] = frozenset()
    anti_affinity: str = PREFERRED
    ports: frozenset[int] = frozenset()


def wishes_of(runtimes: Iterable[Mapping[str, Any]], options: Options) -> list[Wish]:
    """Return the runtimes (manifests.read_runtimes) by name. Raises DataError."""
    wishes: dict[str, Wish] = {}
    for runtime in runtimes:
        try:
            wish = _wish(runtime, options)
        except (KeyError, TypeError) as error:
            raise DataError(f"runtimes: misses {error}; expected the runtimes of runtime_manifest") from None
        if wish.name in wishes:
            raise DataError(f"runtimes: {wish.name!r} is there twice; names are unique")
        if wish.most > 1 and len(wish.name) > _LONGEST_NAME:
            raise DataError(f"runtime {wish.name}: a name with several replicas has at most {_LONGEST_NAME} characters")
        wishes[wish.name] = wish
    for what, names in (("replicas", options.replicas), ("move", options.move)):
        for name in sorted(names):
            if name not in wishes:
                raise DataError(f"{what}: {unknown('runtime', name, wishes)}")
    return [wishes[name] for name in sorted(wishes)]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return that ``name`` is not known, with the nearest that is."""
    known = sorted(known)
    near = get_close_matches(name, known, 1)
    if near:
        return f"no {kind} {name!r}; did you mean {near[0]!r}?"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"no {kind} {name!r}; there are {', '.join(known[:8]) or 'none'}{more}"


def _wish(runtime: Mapping[str, Any], options: Options) -> Wish:
    spec = runtime["spec"]
    resources, scaling, placement = spec["resources"], spec["scaling"], spec["placement"]
    count = resources["accelerator_count"]
    network = spec.get("network") or {}
    forwards = network.get("forward") or []
    demand = Demand(
        cpu=resources["cpu"],
        memory_mib=resources["memory_mib"],
        accelerators=count,
        accelerator_type=resources["accelerator_type"],
        accelerator_memory_mib=resources["accelerator_memory_mib"],
        devices=tuple(sorted(placement["devices"])),
        numa_node=placement["numa_node"],
        strategy=placement.get("strategy") or options.strategy,
        numa=options.numa,
        split_cpu=options.cpu == SPLIT,
        split_memory=options.memory == SPLIT,
    )
    return Wish(
        name=runtime["metadata"]["name"],
        demand=demand,
        least=scaling["minReplicas"],
        most=scaling["maxReplicas"],
        priority=spec.get("priority") or 0,
        hosts=frozenset(placement["hosts"]),
        anti_affinity=placement.get("anti_affinity") or PREFERRED,
        ports=frozenset(forward["host_port"] for forward in forwards),
    )


def wanted(wish: Wish, running: int, options: Options) -> int:
    """Return how many replicas are wanted: those asked for, or those that run, within minReplicas and maxReplicas."""
    return max(wish.least, min(wish.most, options.replicas.get(wish.name, running)))
