"""What holds for every plan, whatever the fleet and the runtimes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import Capacity
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan
from tests.support.fleets import best_possible, hosts, runtimes

SCHEMA = Path(__file__).parents[3] / "plugins/module_utils/schemas/plan-v1.schema.json"
OPTIONS = st.builds(
    Options,
    cpu=st.sampled_from(("demand", "split")),
    memory=st.sampled_from(("demand", "split")),
    accelerators=st.sampled_from(("demand", "split")),
    strategy=st.sampled_from(("pack", "spread")),
    numa=st.sampled_from(("prefer", "strict")),
    preempt=st.booleans(),
)
slow = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@cache
def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))


def sound(
    plan: dict[str, Any], fleet: list[Capacity], wanted: list[dict[str, Any]], refused: Iterable[str] = ()
) -> None:
    """Nothing is given out twice, nothing that is not there, nobody gets less than asked for, and the sums are right.

    ``refused`` are runtimes that run on with what they asked for earlier.
    """
    validator().validate(plan)
    resources = {each["metadata"]["name"]: each["spec"]["resources"] for each in wanted}
    for capacity in fleet:
        mine = [each for each in plan["placements"] if each["host"] == capacity.host]
        cpus = Counter(cpu for each in mine for cpu in each["cpus"])
        cores = [core for node in capacity.nodes for core in node.cores]
        assert max(cpus.values(), default=1) == 1
        assert set(cpus) <= {cpu for core in cores for cpu in core}
        assert all(len({each["id"] for each in mine if set(core) & set(each["cpus"])}) <= 1 for core in cores)
        groups = Counter(group for each in mine for group in each["groups"])
        devices = Counter(bdf for each in mine for bdf in each["devices"])
        assert max([*groups.values(), *devices.values()], default=1) == 1
        for unit in capacity.units:
            assert len({groups[group] for group in unit.groups} | {devices[bdf] for bdf in unit.devices}) == 1
        assert set(devices) <= {bdf for unit in capacity.units for bdf in unit.devices}
        for node in capacity.nodes:
            parts = [part for each in mine for part in (*each["memory"], *each.get("vmm_memory", ()))]
            given_out = sum(part["mib"] for part in parts if part["node"] == node.node)
            assert given_out <= node.memory_mib
        page_mib = max(1, capacity.hugepage_kib // 1024)
        assert all(part["mib"] % page_mib == 0 for each in mine for part in each["memory"])
        used = plan["hosts"][capacity.host]
        assert used["cpus_used"] == len(cpus) <= used["cpus"] == capacity.cpus
        assert used["accelerators_used"] == sum(len(each["accelerators"]) for each in mine) <= used["accelerators"]
        monitors = sum(part["mib"] for each in mine for part in each.get("vmm_memory", ()))
        assert used["memory_mib_used"] == sum(each["memory_mib"] for each in mine) + monitors <= used["memory_mib"]
    for each in plan["placements"]:
        assert each["memory_mib"] == sum(part["mib"] for part in each["memory"])
        assert each["cpu_count"] <= len(each["cpus"])
        if each["runtime"] in refused:
            continue
        asked = resources[each["runtime"]]
        assert asked["cpu"] <= each["cpu_count"]
        assert asked["memory_mib"] <= each["memory_mib"]
        assert len(each["accelerators"]) == asked["accelerator_count"]
        for accelerator in each["accelerators"]:
            assert asked["accelerator_type"] in (None, accelerator["type"])
            assert accelerator["memory_mib"] >= asked["accelerator_memory_mib"]
        assert len({accelerator["type"] for accelerator in each["accelerators"]}) <= 1


def obeys(plan: dict[str, Any], wanted: list[dict[str, Any]]) -> None:
    """Hosts, NUMA nodes, numbers, ports and distance are as the manifests say."""
    on: dict[str, list[str]] = {}
    for each in plan["placements"]:
        on.setdefault(each["runtime"], []).append(each["host"])
    ports: Counter[tuple[str, int]] = Counter()
    for each in wanted:
        name, spec = each["metadata"]["name"], each["spec"]
        placement, mine = spec["placement"], on.get(each["metadata"]["name"], [])
        assert len(mine) <= spec["scaling"]["maxReplicas"]
        if placement["hosts"]:
            assert set(mine) <= set(placement["hosts"])
        if placement["anti_affinity"] == "required":
            assert len(mine) == len(set(mine))
        ports.update((host, forward["host_port"]) for host in mine for forward in spec["network"].get("forward", []))
        if placement["numa_node"] is not None:
            nodes = {part["node"] for one in plan["placements"] if one["runtime"] == name for part in one["memory"]}
            assert nodes <= {placement["numa_node"]}
        missing = [one for one in plan["unplaced"] if one["runtime"] == name]
        assert len(mine) + sum(len(one["replicas"]) for one in missing) >= spec["scaling"]["minReplicas"]
    assert max(ports.values(), default=1) == 1


@slow
@given(hosts(), runtimes(), OPTIONS)
def test_nothing_overlaps_and_nothing_is_over_capacity(
    fleet: list[Capacity], wanted: list[dict[str, Any]], options: Options
) -> None:
    plan = make_plan(fleet, wanted, None, options)
    sound(plan, fleet, wanted)
    obeys(plan, wanted)


@slow
@given(hosts(), runtimes(), runtimes(), hosts(), OPTIONS)
def test_plans_upon_plans_stay_sound(
    fleet: list[Capacity],
    first: list[dict[str, Any]],
    second: list[dict[str, Any]],
    other_fleet: list[Capacity],
    options: Options,
) -> None:
    """Manifests and hosts change under what runs: sizes, types, CPUs, whole hosts."""
    before = make_plan(fleet, first, None, options)
    for after_fleet, wanted in ((fleet, second), (other_fleet, first), (other_fleet, second)):
        plan = make_plan(after_fleet, wanted, json.loads(json.dumps(before)), options)
        validator().validate(plan)
        # What cannot have what it asks for now runs on with what it has.
        refused = {each["runtime"] for each in plan["changes"] if each["reason"].startswith("runs on as it was")}
        sound(plan, after_fleet, wanted, refused)


@slow
@given(hosts(), runtimes(), runtimes(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    fleet: list[Capacity],
    first: list[dict[str, Any]],
    second: list[dict[str, Any]],
    options: Options,
    chance: random.Random,
) -> None:
    before = make_plan(fleet, first, None, options)
    shuffled = [chance.sample(each, len(each)) for each in (fleet, first, second)]
    assert make_plan(shuffled[0], shuffled[1], None, options) == before
    current = {**before, "placements": chance.sample(before["placements"], len(before["placements"]))}
    after = make_plan(shuffled[0], shuffled[2], current, options)
    assert after == make_plan(fleet, second, before, options)


@slow
@given(hosts(), hosts(), runtimes(), OPTIONS)
def test_adding_hosts_never_moves_or_evicts(
    fleet: list[Capacity], more: list[Capacity], wanted: list[dict[str, Any]], options: Options
) -> None:
    before = make_plan(fleet, wanted, None, options)
    larger = [*fleet, *(replace(each, host=f"new-{each.host}") for each in more)]
    after = make_plan(larger, wanted, before, options)
    sound(after, larger, wanted)
    placed = {each["id"]: each for each in after["placements"]}
    for each in before["placements"]:
        assert placed[each["id"]] == each
    assert {each["action"] for each in after["changes"]} <= {"keep", "add"}
    assert after["summary"]["unplaced"] <= before["summary"]["unplaced"]


@slow
@given(hosts(), runtimes(), OPTIONS)
def test_planning_again_changes_nothing(fleet: list[Capacity], wanted: list[dict[str, Any]], options: Options) -> None:
    before = make_plan(fleet, wanted, None, options)
    again = make_plan(fleet, wanted, before, options)
    assert again["placements"] == before["placements"]
    assert {each["action"] for each in again["changes"]} <= {"keep"}


@slow
@given(hosts(), runtimes(), OPTIONS, OPTIONS)
def test_dividing_again_is_sound_and_moves_nothing_elsewhere(
    fleet: list[Capacity], wanted: list[dict[str, Any]], first: Options, second: Options
) -> None:
    before = make_plan(fleet, wanted, None, first)
    options = replace(second, resize=True, preempt=False)
    after = make_plan(fleet, wanted, before, options)
    sound(after, fleet, wanted)
    was = {each["id"]: (each["host"], each["devices"]) for each in before["placements"]}
    assert was.items() <= {each["id"]: (each["host"], each["devices"]) for each in after["placements"]}.items()
    again = make_plan(fleet, wanted, after, options)
    if not any(each["action"] == "add" for each in after["changes"]):
        assert again["placements"] == after["placements"]


@slow
@given(hosts(), runtimes(), st.data())
def test_one_changed_runtime_moves_no_other(
    fleet: list[Capacity], wanted: list[dict[str, Any]], data: st.DataObject
) -> None:
    before = make_plan(fleet, wanted, None, Options())
    changed = data.draw(st.sampled_from(wanted))
    changed["spec"]["resources"]["cpu"] += 1
    after = make_plan(fleet, wanted, before, Options())
    moved = {each["runtime"] for each in after["changes"] if each["action"] in ("move", "remove")}
    assert moved <= {changed["metadata"]["name"]}
    assert "remove" not in {each["action"] for each in after["changes"]}


@pytest.mark.parametrize("strategy", ["pack", "spread"])
@slow
@given(hosts(3, simple=True), runtimes(4, simple=True))
def test_small_cases_come_within_five_percent_of_the_optimum(
    strategy: str, fleet: list[Capacity], wanted: list[dict[str, Any]]
) -> None:
    plan = make_plan(fleet, wanted, None, Options(strategy=strategy))
    found = sum(max(1, each["demand"]["accelerator_count"]) for each in plan["placements"])
    assert found >= 0.95 * best_possible(fleet, wanted)


@slow
@given(hosts(), runtimes(), OPTIONS)
def test_every_leftover_says_why_and_the_nearest_really_fits(
    fleet: list[Capacity], wanted: list[dict[str, Any]], options: Options
) -> None:
    plan = make_plan(fleet, wanted, None, options)
    for each in plan["unplaced"]:
        assert each["reason"]
        if each["nearest"] is None or not each["nearest"]["fits"]:
            continue
        names = {"accelerator_count": "accelerator_count", "cpu": "cpu"}
        smaller = json.loads(json.dumps(next(one for one in wanted if one["metadata"]["name"] == each["runtime"])))
        for name, value in each["nearest"]["fits"].items():
            if name == "memory":
                smaller["spec"]["resources"]["memory_mib"] = int(value.removesuffix("Mi"))
            else:
                smaller["spec"]["resources"][names[name]] = value
        others = [one for one in wanted if one["metadata"]["name"] != each["runtime"]]
        smaller["spec"]["scaling"]["minReplicas"] = 1
        after = make_plan(fleet, [*others, smaller], without(plan, each["runtime"]), replace(options, preempt=False))
        assert any(one["runtime"] == each["runtime"] for one in after["placements"])


def without(plan: dict[str, Any], name: str) -> dict[str, Any]:
    return {**plan, "placements": [each for each in plan["placements"] if each["runtime"] != name]}
