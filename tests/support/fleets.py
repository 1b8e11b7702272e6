"""Small fleets and runtimes for the planner, by hand and at random, and a planner that tries everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import Capacity, Device, Node, Unit

A40, L4 = ("nvidia-a40", 49152), ("nvidia-l4", 24576)
KINDS = {"nvidia-a40": 49152, "nvidia-l4": 24576}


def host(  # noqa: PLR0917  # a table of hosts reads better without names
    name: str,
    kinds: Sequence[str | Sequence[str]] = (),
    cores: Sequence[int] = (8,),
    memory_gib: Sequence[int] = (64,),
    threads: int | Sequence[int] = 1,
    hugepage_kib: int = 0,
    switches: Sequence[int | None] = (),
    island: str | None = None,
    vmm_mib: int = 0,
) -> Capacity:
    """Return a host: ``kinds`` has a type for each unit, or several for a unit of several accelerators.

    Units go to the NUMA nodes in equal parts in their order. CPU numbers of one core are apart, as on real machines;
    ``threads`` is how many each has, or several numbers that take turns.
    """
    total = sum(cores)
    nodes, first = [], 0
    for node, (count, size) in enumerate(zip(cores, memory_gib, strict=True)):
        numbers = range(first, first + count)
        counts = [threads] if isinstance(threads, int) else threads
        mine = tuple(tuple(core + total * thread for thread in range(counts[core % len(counts)])) for core in numbers)
        distances = tuple(10 if other == node else 20 for other in range(len(cores)))
        nodes.append(Node(node, mine, size * 1024, distances))
        first += count
    units = []
    for index, kind in enumerate(kinds):
        types = [kind] if isinstance(kind, str) else list(kind)
        bdfs = [f"0000:{0x10 + index:02x}:00.{function}" for function in range(len(types))]
        units.append(
            Unit(
                groups=(10 + index,),
                devices=tuple(bdfs),
                accelerators=tuple(Device(bdf, each, KINDS[each]) for bdf, each in zip(bdfs, types, strict=True)),
                node=index * len(cores) // len(kinds),
                switch=None if not switches or switches[index] is None else f"0000:f{switches[index]}:00.0",
                island=island,
            )
        )
    return Capacity(name, tuple(nodes), tuple(units), hugepage_kib, vmm_mib=vmm_mib)


def runtime(name: str, **given: Any) -> dict[str, Any]:
    """Return a runtime as module runtime_manifest does, as far as the planner reads it."""
    least = given.pop("replicas", 1)
    runtime = {
        "metadata": {"name": name},
        "spec": {
            "priority": given.pop("priority", 0),
            "resources": {
                "cpu": given.pop("cpu", 1),
                "memory_mib": given.pop("memory_gib", 1) * 1024,
                "accelerator_count": given.pop("accelerators", 0),
                "accelerator_type": given.pop("kind", None),
                "accelerator_memory_mib": given.pop("accelerator_gib", 0) * 1024,
            },
            "scaling": {"minReplicas": least, "maxReplicas": max(1, given.pop("most", least))},
            "placement": {
                "hosts": given.pop("hosts", []),
                "numa_node": given.pop("numa_node", None),
                "devices": given.pop("devices", []),
                "strategy": given.pop("strategy", None),
                "anti_affinity": given.pop("anti_affinity", "preferred"),
            },
            "network": given.pop("network", {"mode": "tap"}),
        },
    }
    assert not given, given
    return runtime


@st.composite
def hosts(draw: st.DrawFn, count: int = 4, *, simple: bool = False) -> list[Capacity]:
    """Return up to ``count`` hosts of one to three shapes."""
    shapes = []
    for _shape in range(draw(st.integers(1, 2 if simple else 3))):
        nodes = draw(st.integers(1, 2))
        unit: Any = st.sampled_from(sorted(KINDS))
        if not simple:
            unit = st.one_of(unit, unit.flatmap(lambda kind: st.just((kind, kind))))
        kinds = draw(st.lists(unit, max_size=4 if simple else 6))
        shapes.append(
            {
                "kinds": kinds,
                "cores": draw(st.lists(st.integers(1, 8), min_size=nodes, max_size=nodes)),
                "memory_gib": draw(st.lists(st.integers(1, 32), min_size=nodes, max_size=nodes)),
                "threads": 1 if simple else draw(st.sampled_from((1, 2, (2, 1)))),
                "hugepage_kib": 0 if simple else draw(st.sampled_from((0, 2048, 1048576))),
                "switches": draw(st.lists(st.sampled_from((None, 0, 1)), min_size=len(kinds), max_size=len(kinds))),
                "island": draw(st.sampled_from((None, "nvlink"))),
            }
        )
        if not shapes[-1]["hugepage_kib"]:
            shapes[-1]["vmm_mib"] = draw(st.sampled_from((0, 0, 256, 768)))
    number = draw(st.integers(1, count))
    return [host(f"h{index}", **draw(st.sampled_from(shapes))) for index in range(number)]


@st.composite
def runtimes(draw: st.DrawFn, count: int = 6, *, simple: bool = False) -> list[dict[str, Any]]:
    """Return up to ``count`` runtimes; simple ones ask for resources alone and want one or two replicas."""
    found = []
    for index in range(draw(st.integers(1, count))):
        accelerators = draw(st.sampled_from((0, 1, 1, 2, 3, 4)))
        least = draw(st.integers(1, 2)) if simple else draw(st.integers(0, 3))
        given: dict[str, Any] = {
            "cpu": draw(st.integers(1, 8)),
            "memory_gib": draw(st.integers(1, 16)),
            "accelerators": accelerators,
            "replicas": least,
        }
        if accelerators:
            given["kind"] = draw(st.sampled_from((None, *sorted(KINDS))))
            given["accelerator_gib"] = draw(st.sampled_from((0, 20, 40)))
        if not simple:
            given.update(
                most=max(1, least + draw(st.integers(0, 2))),
                priority=draw(st.integers(0, 2)),
                numa_node=draw(st.sampled_from((None, None, None, 0, 1))),
                strategy=draw(st.sampled_from((None, "pack", "spread"))),
                anti_affinity=draw(st.sampled_from(("none", "preferred", "required"))),
                hosts=draw(st.sampled_from(([], [], [], ["h0"], ["h1", "h2"]))),
            )
            if draw(st.integers(0, 4)) == 0:
                given["network"] = {"mode": "user", "forward": [{"host_port": draw(st.integers(8000, 8001))}]}
        found.append(runtime(f"r{index}", **given))
    return found


def best_possible(fleet: Sequence[Capacity], wanted: Sequence[dict[str, Any]]) -> int:
    """Return how much can be placed at most: the accelerators of each replica, or one, over all ways to place them.

    It looks at whole hosts alone: a host takes a set of replicas when CPUs, memory and accelerators suffice in sum and
    every replica can have accelerators of one kind that suit it. ``fleet`` must be simple, ``wanted`` too.
    """
    replicas = [
        each["spec"]["resources"] for each in wanted for _replica in range(each["spec"]["scaling"]["minReplicas"])
    ]
    everyone = range(len(replicas))
    # The sets of replicas that each host can take, as bit masks.
    takes = [
        [
            sum(1 << index for index in chosen)
            for size in range(len(replicas) + 1)
            for chosen in combinations(everyone, size)
            if _host_takes(capacity, [replicas[index] for index in chosen])
        ]
        for capacity in fleet
    ]
    worth = [max(1, each["accelerator_count"]) for each in replicas]
    reached = {0}
    for sets in takes:
        reached |= {placed | mine for placed in reached for mine in sets if not placed & mine}
    return max(sum(worth[index] for index in everyone if placed >> index & 1) for placed in reached)


def _host_takes(capacity: Capacity, replicas: Sequence[dict[str, Any]]) -> bool:
    if sum(each["cpu"] for each in replicas) > capacity.cpus:
        return False
    if sum(each["memory_mib"] + capacity.vmm_mib for each in replicas) > capacity.memory_mib:
        return False
    free = Counter(unit.accelerators[0].type for unit in capacity.units)
    return _accelerators_suffice(free, [each for each in replicas if each["accelerator_count"]])


def _accelerators_suffice(free: Counter[str], replicas: Sequence[dict[str, Any]]) -> bool:
    if not replicas:
        return True
    first, count = replicas[0], replicas[0]["accelerator_count"]
    for kind, number in sorted(free.items()):
        suits = first["accelerator_type"] in (None, kind) and KINDS[kind] >= first["accelerator_memory_mib"]
        if suits and number >= count and _accelerators_suffice(free - Counter({kind: count}), replicas[1:]):
            return True
    return False
