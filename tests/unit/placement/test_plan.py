"""What a user sees of the planner: where things go, what stays, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import Capacity
from ansible_collections.vllmd.platform.plugins.module_utils.placement.data import DataError
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan, plan_data
from tests.support.fleets import host, runtime

A40 = "nvidia-a40"
SPLIT = {"cpu": "split", "memory": "split", "accelerators": "split"}


def plan(
    fleet: list[Capacity], wanted: list[dict[str, Any]], current: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    return make_plan(fleet, wanted, current, Options(**options))


def where(found: dict[str, Any]) -> dict[str, str]:
    return {each["id"]: each["host"] for each in found["placements"]}


def placed(found: dict[str, Any], name: str) -> dict[str, Any]:
    (placement,) = [each for each in found["placements"] if each["id"] == name]
    return placement


def why(found: dict[str, Any], name: str) -> tuple[str, str]:
    (change,) = [each for each in found["changes"] if each["id"] == name]
    return change["action"], change["reason"]


def groups(found: dict[str, Any], name: str) -> list[int]:
    return [group - 10 for group in placed(found, name)["groups"]]


def two_sockets(name: str = "h", **given: Any) -> Capacity:
    return host(name, [A40] * 8, cores=(8, 8), memory_gib=(64, 64), **{"threads": 2, **given})


class TestNearness:
    def test_cpus_and_memory_come_from_the_accelerators_node_in_whole_cores(self) -> None:
        found = plan(
            [two_sockets()], [runtime("a", cpu=7, memory_gib=40), runtime("b", accelerators=4, cpu=7, memory_gib=40)]
        )
        b = placed(found, "b")
        assert len({each["node"] for each in b["accelerators"]}) == 1
        node = b["accelerators"][0]["node"]
        assert b["memory"] == [{"node": node, "mib": 40 * 1024}]
        assert b["cpu_count"] == 7
        assert b["cpus"] == [cpu + 8 * node for cpu in (0, 1, 2, 3, 16, 17, 18, 19)]

    def test_accelerators_go_under_one_switch_when_they_can(self) -> None:
        fleet = [two_sockets(switches=(0, 1, 2, 1, 2, 3, 3, None))]
        assert groups(plan(fleet, [runtime("a", accelerators=2)]), "a") == [1, 3]

    def test_else_into_one_nvlink_island(self) -> None:
        fleet = [two_sockets(island="nvlink")]
        assert groups(plan(fleet, [runtime("a", accelerators=4)]), "a") == [0, 1, 2, 3]

    def test_single_ones_leave_whole_switches_and_nodes_free(self) -> None:
        fleet = [two_sockets(switches=(0, 0, 1, 2, 3, 3, 4, 4))]
        found = plan(fleet, [runtime("a", accelerators=1)])
        assert groups(found, "a") == [2]
        found = plan(fleet, [runtime("a", accelerators=1), runtime("b", accelerators=4)])
        assert groups(found, "b") in ([0, 1, 2, 3], [4, 5, 6, 7])

    def test_a_replica_over_two_nodes_takes_its_cpus_and_memory_of_both(self) -> None:
        a = placed(plan([two_sockets()], [runtime("a", accelerators=8, cpu=16, memory_gib=64)]), "a")
        assert a["memory"] == [{"node": 0, "mib": 32 * 1024}, {"node": 1, "mib": 32 * 1024}]
        assert a["cpus"] == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]

    def test_the_other_node_helps_out_unless_numa_is_strict(self) -> None:
        fleet, wanted = [two_sockets()], [runtime("a", accelerators=1, memory_gib=80)]
        assert [part["mib"] for part in placed(plan(fleet, wanted), "a")["memory"]] == [64 * 1024, 16 * 1024]
        assert plan(fleet, wanted, numa="strict")["summary"]["unplaced"] == 1

    def test_hugepages_are_given_whole(self) -> None:
        fleet = [host("h", cores=(8,), memory_gib=(64,), hugepage_kib=1048576)]
        wanted = runtime("a")
        wanted["spec"]["resources"]["memory_mib"] = 1500
        assert placed(plan(fleet, [wanted]), "a")["memory_mib"] == 2048

    def test_a_numa_node_that_the_manifest_names(self) -> None:
        a = placed(plan([two_sockets()], [runtime("a", accelerators=2, numa_node=1)]), "a")
        assert {part["node"] for part in a["memory"]} == {1}
        assert {each["node"] for each in a["accelerators"]} == {1}

    def test_devices_that_the_manifest_names(self) -> None:
        found = plan([two_sockets()], [runtime("a", accelerators=1, devices=["0000:13:00.0"])])
        assert placed(found, "a")["devices"] == ["0000:13:00.0"]

    def test_a_group_goes_as_a_whole(self) -> None:
        fleet = [host("h", [[A40, A40], A40], cores=(8,))]
        assert groups(plan(fleet, [runtime("a", accelerators=1)]), "a") == [1]
        found = plan(fleet, [runtime("a", accelerators=2)])
        assert placed(found, "a")["devices"] == ["0000:10:00.0", "0000:10:00.1"]


class TestChoiceOfHost:
    FLEET = (host("a", [A40] * 2), host("b", [A40] * 2), host("c", [A40] * 2))

    def test_pack_fills_one_host_first(self) -> None:
        wanted = [runtime(f"r{index}", accelerators=1) for index in range(4)]
        assert sorted(where(plan(list(self.FLEET), wanted)).values()) == ["a", "a", "b", "b"]

    def test_spread_takes_the_emptiest(self) -> None:
        wanted = [runtime(f"r{index}", accelerators=1) for index in range(4)]
        assert sorted(where(plan(list(self.FLEET), wanted, strategy="spread")).values()) == ["a", "a", "b", "c"]

    def test_a_manifest_may_say_otherwise(self) -> None:
        wanted = [runtime(f"r{index}", accelerators=1, strategy="spread") for index in range(3)]
        assert sorted(where(plan(list(self.FLEET), wanted)).values()) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("rule", "expected"), [("none", ["a", "a"]), ("preferred", ["a", "b"]), ("required", ["a", "b"])]
    )
    def test_replicas_keep_apart(self, rule: str, expected: list[str]) -> None:
        found = plan(list(self.FLEET), [runtime("r", accelerators=1, replicas=2, anti_affinity=rule)])
        assert sorted(where(found).values()) == expected

    def test_preferred_is_no_reason_not_to_run(self) -> None:
        wanted = [runtime("r", accelerators=1, replicas=4)]
        assert plan(list(self.FLEET), wanted)["summary"]["unplaced"] == 0
        wanted = [runtime("r", accelerators=1, replicas=4, anti_affinity="required")]
        found = plan(list(self.FLEET), wanted)
        assert found["summary"]["unplaced"] == 1
        assert "a has a replica of it already" in found["unplaced"][0]["reason"]

    def test_hosts_with_accelerators_are_for_runtimes_with_accelerators(self) -> None:
        assert where(plan([host("a", [A40]), host("b")], [runtime("r")])) == {"r": "b"}

    def test_no_better_accelerator_than_asked_for(self) -> None:
        fleet = [host("a", [A40]), host("b", ["nvidia-l4"])]
        assert where(plan(fleet, [runtime("r", accelerators=1, accelerator_gib=20)])) == {"r": "b"}

    def test_a_port_of_the_host_is_one_replicas_alone(self) -> None:
        network = {"mode": "user", "forward": [{"host_port": 8000}]}
        found = plan(list(self.FLEET), [runtime("r", network=network, replicas=2), runtime("s", network=network)])
        assert sorted(where(found).values()) == ["a", "b", "c"]

    def test_who_is_bound_to_a_node_does_not_find_it_taken(self) -> None:
        fleet = [host("h", [A40] * 4, cores=(1, 1), memory_gib=(2, 1))]
        wanted = [runtime("anywhere", hosts=["h"]), runtime("bound", accelerators=2, numa_node=1)]
        assert plan(fleet, wanted)["summary"]["unplaced"] == 0

    def test_a_higher_priority_is_placed_first(self) -> None:
        wanted = [runtime("a", accelerators=2), runtime("b", accelerators=1, priority=1)]
        assert where(plan([host("h", [A40] * 2)], wanted)) == {"b": "h"}


class TestSplit:
    def test_each_accelerator_brings_its_share_of_its_node(self) -> None:
        found = plan(
            [two_sockets()], [runtime("a", accelerators=1), runtime("b", accelerators=2)], cpu="split", memory="split"
        )
        assert (placed(found, "a")["cpu_count"], placed(found, "a")["memory_mib"]) == (4, 16 * 1024)
        assert (placed(found, "b")["cpu_count"], placed(found, "b")["memory_mib"]) == (8, 32 * 1024)

    def test_never_less_than_asked_for(self) -> None:
        found = plan([two_sockets()], [runtime("a", accelerators=1, cpu=6, memory_gib=20)], **SPLIT)
        assert (placed(found, "a")["cpu_count"], placed(found, "a")["memory_mib"]) == (6, 20 * 1024)

    def test_one_of_the_two_alone(self) -> None:
        found = plan([two_sockets()], [runtime("a", accelerators=1, cpu=2)], memory="split")
        assert (placed(found, "a")["cpu_count"], placed(found, "a")["memory_mib"]) == (2, 16 * 1024)

    def test_replicas_grow_in_turn_up_to_their_maximum(self) -> None:
        wanted = [runtime("a", accelerators=2, most=3), runtime("b", accelerators=1, most=3)]
        found = plan([two_sockets()], wanted, accelerators="split")
        assert sorted(where(found)) == ["a", "a.1", "a.2", "b", "b.1"]
        assert why(found, "a.1") == ("add", "its accelerators were free")

    def test_without_accelerators_the_host_is_divided(self) -> None:
        found = plan([host("h", cores=(8,), memory_gib=(64,))], [runtime("a", cpu=2), runtime("b", cpu=1)], **SPLIT)
        assert [each["cpu_count"] for each in found["placements"]] == [5, 3]
        assert [each["memory_mib"] for each in found["placements"]] == [32 * 1024, 32 * 1024]
        again = plan(
            [host("h", cores=(8,), memory_gib=(64,))], [runtime("a", cpu=2), runtime("b", cpu=1)], found, **SPLIT
        )
        assert again["placements"] == found["placements"]


class TestWhatRuns:
    FLEET = (host("a", [A40] * 2), host("b", [A40] * 2))
    WANTED = (runtime("r", accelerators=1, replicas=2, most=4), runtime("s", accelerators=1))

    def before(self) -> dict[str, Any]:
        return plan(list(self.FLEET), list(self.WANTED))

    def test_stays(self) -> None:
        found = plan(list(self.FLEET), list(self.WANTED), self.before(), strategy="spread", **SPLIT)
        kept = [each for each in found["placements"] if each["id"] in where(self.before())]
        assert kept == self.before()["placements"]
        assert why(found, "r") == ("keep", "runs")

    def test_goes_when_no_manifest_names_it(self) -> None:
        found = plan(list(self.FLEET), [self.WANTED[0]], self.before())
        assert why(found, "s") == ("remove", "no manifest names it")
        assert "s" not in where(found)

    def test_grows_and_shrinks_by_number(self) -> None:
        more = plan(list(self.FLEET), list(self.WANTED), self.before(), replicas={"r": 3})
        assert why(more, "r.2") == ("add", "3 replicas are wanted")
        assert plan(list(self.FLEET), list(self.WANTED), more)["placements"] == more["placements"]
        fewer = plan(list(self.FLEET), list(self.WANTED), more, replicas={"r": 0})
        assert why(fewer, "r.2") == ("remove", "2 replicas are wanted")
        assert sorted(where(fewer)) == ["r", "r.1", "s"]

    def test_a_manifest_that_asks_for_more_gets_it_on_its_host(self) -> None:
        wanted = [self.WANTED[0], runtime("s", accelerators=1, cpu=3)]
        found = plan(list(self.FLEET), wanted, self.before())
        assert why(found, "s") == ("move", "spec.resources.cpu is 3, was 1")
        assert where(found) == where(self.before())
        assert placed(found, "s")["groups"] == placed(self.before(), "s")["groups"]

    def test_or_runs_on_as_it_was_when_that_does_not_fit(self) -> None:
        wanted = [self.WANTED[0], runtime("s", accelerators=1, cpu=9)]
        found = plan(list(self.FLEET), wanted, self.before())
        assert placed(found, "s") == placed(self.before(), "s")
        action, reason = why(found, "s")
        assert action == "keep"
        assert reason.startswith("runs on as it was: spec.resources.cpu is 9, was 1, but asks for 1 x any accelerator")

    def test_is_placed_elsewhere_when_its_host_is_gone(self) -> None:
        gone = where(self.before())["s"]
        rest = [each for each in self.FLEET if each.host != gone]
        found = plan([*rest, host("c", [A40] * 2)], list(self.WANTED), self.before())
        action, reason = why(found, "s")
        assert (action, reason) == ("move", f"host {gone} is gone")

    def test_is_left_alone_when_its_host_could_not_be_read(self) -> None:
        absent = where(self.before())["s"]
        rest = [each for each in self.FLEET if each.host != absent]
        found = plan(rest, list(self.WANTED), self.before(), absent=frozenset({absent}))
        assert found["placements"] == self.before()["placements"]
        assert why(found, "s") == ("keep", f"{absent} could not be read; left as it is")

    def test_moves_when_its_device_is_gone(self) -> None:
        mine = placed(self.before(), "s")
        fleet = [
            Capacity(each.host, each.nodes, tuple(u for u in each.units if u.devices != tuple(mine["devices"])))
            if each.host == mine["host"]
            else each
            for each in self.FLEET
        ]
        found = plan(fleet, list(self.WANTED), self.before())
        assert why(found, "s") == ("move", f"{mine['host']} has no device {mine['devices'][0]} to give any more")

    def test_stays_when_the_kernel_numbers_the_groups_otherwise(self) -> None:
        fleet = [
            replace(each, units=tuple(replace(unit, groups=(unit.groups[0] + 7,)) for unit in each.units))
            for each in self.FLEET
        ]
        found = plan(fleet, list(self.WANTED), self.before())
        assert {each["action"] for each in found["changes"]} == {"keep"}
        assert placed(found, "s")["groups"] == [placed(self.before(), "s")["groups"][0] + 7]

    def test_leaves_a_host_that_is_drained(self) -> None:
        found = plan([*self.FLEET, host("c", [A40] * 4)], list(self.WANTED), self.before(), drain=frozenset({"a"}))
        assert "a" not in where(found).values()
        moved = [each for each in found["changes"] if each["from"] == "a"]
        assert {(each["action"], each["reason"]) for each in moved} == {("move", "a is drained")}

    def test_stays_on_a_drained_host_when_it_fits_nowhere_else(self) -> None:
        full = [host("a", [A40] * 2), host("b", [A40])]
        before = plan(full, list(self.WANTED))
        found = plan(full, list(self.WANTED), before, drain=frozenset({"b"}))
        assert where(found) == where(before)

    def test_moves_to_make_room_only_when_asked(self) -> None:
        fleet = [host("a", [A40] * 2), host("b", [A40] * 2)]
        spread = plan(fleet, [runtime("r", accelerators=1), runtime("s", accelerators=1)], strategy="spread")
        wanted = [runtime("r", accelerators=1), runtime("s", accelerators=1), runtime("t", accelerators=2)]
        assert plan(fleet, wanted, spread)["summary"]["unplaced"] == 1
        found = plan(fleet, wanted, spread, move=frozenset({"s"}))
        assert found["summary"] == {"add": 1, "keep": 1, "move": 1, "remove": 0, "unplaced": 0}

    def test_gives_way_to_a_higher_priority_only_when_asked(self) -> None:
        fleet = [host("a", [A40] * 2)]
        before = plan(fleet, [runtime("low", accelerators=1), runtime("mid", accelerators=1, priority=1)])
        wanted = [
            runtime("low", accelerators=1),
            runtime("mid", accelerators=1, priority=1),
            runtime("high", accelerators=1, priority=2),
        ]
        assert sorted(where(plan(fleet, wanted, before))) == ["low", "mid"]
        found = plan(fleet, wanted, before, preempt=True)
        assert sorted(where(found)) == ["high", "mid"]
        assert why(found, "low") == ("remove", "made room for high")
        assert [each["runtime"] for each in found["unplaced"]] == ["low"]

    def test_two_that_claim_the_same_are_told_apart(self) -> None:
        before = self.before()
        before["placements"][1] = {**before["placements"][0], "id": "r.1", "replica": 1}
        found = plan(list(self.FLEET), list(self.WANTED), before)
        assert why(found, "r") == ("keep", "runs")
        assert why(found, "r.1")[0] == "move"
        assert "to another" in why(found, "r.1")[1]


@pytest.mark.parametrize(
    ("wanted", "reason", "nearest"),
    [
        ({"accelerators": 1, "kind": "nvidia-a4O"}, "no accelerator 'nvidia-a4O'; did you mean 'nvidia-a40'?", None),
        ({"accelerators": 1, "accelerator_gib": 80}, "no accelerator has 80Gi; the largest has 48Gi", None),
        ({"accelerators": 4}, "accelerator_count: 4 on one host; no host has more than 2", None),
        ({"hosts": ["bb"]}, "no host 'bb'; did you mean 'b'?", None),
        ({"accelerators": 1, "devices": ["0000:99:00.0"]}, "no host has 0000:99:00.0 to give", None),
        ({"accelerators": 2, "devices": ["0000:10:00.0"]}, "are 1 accelerators with all of their IOMMU groups", None),
        (
            {"accelerators": 2, "cpu": 9},
            "asks for 2 x any accelerator, 9 CPUs, 1024 MiB, which no host has free",
            "nearest: a lacks 1 CPU; there cpu 8 would fit",
        ),
        (
            {"memory_gib": 100},
            "which no host has free",
            "nearest: a lacks 36864 MiB of memory; there memory 65536Mi would fit",
        ),
    ],
)
def test_says_why_not_and_the_nearest_that_fits(wanted: dict[str, Any], reason: str, nearest: str | None) -> None:
    found = plan([host("a", [A40] * 2), host("b", [A40])], [runtime("r", **wanted)])
    (missing,) = found["unplaced"]
    assert reason in missing["reason"]
    assert (missing["nearest"] or {}).get("text") == nearest


def test_without_any_accelerator_the_nearest_has_none() -> None:
    found = plan([host("a", cores=(2,), memory_gib=(21,))], [runtime("r", accelerators=1, kind=A40, cpu=4)])
    (missing,) = found["unplaced"]
    assert missing["reason"] == "no host has accelerators to give"
    assert missing["nearest"]["text"] == (
        "nearest: a lacks 1 accelerator, 2 CPUs; there accelerator_count 0, cpu 2 would fit"
    )
    found = plan([host("a")], [runtime("r", accelerators=2)])
    assert found["unplaced"][0]["nearest"]["fits"] == {"accelerator_count": 0}


def test_a_host_is_divided_again_when_asked() -> None:
    fleet, r, other = [host("a", cores=(4,), memory_gib=(16,))], runtime("r", cpu=2, memory_gib=4), runtime("s")
    before = plan(fleet, [r])
    assert plan(fleet, [r], before, **SPLIT)["placements"] == before["placements"]
    split = plan(fleet, [r], before, **SPLIT, resize=True)
    assert why(split, "r") == ("move", "its host is divided again")
    assert (placed(split, "r")["cpu_count"], placed(split, "r")["memory_mib"]) == (4, 16 * 1024)
    assert why(plan(fleet, [r], split, **SPLIT, resize=True), "r") == ("keep", "runs")
    both = plan(fleet, [r, other], split, **SPLIT, resize=True)
    assert {each["id"]: each["cpu_count"] for each in both["placements"]} == {"r": 3, "s": 1}
    assert placed(plan(fleet, [r], split, resize=True), "r")["memory_mib"] == 4 * 1024


def test_dividing_again_keeps_devices() -> None:
    fleet, wanted = [two_sockets()], [runtime("a", accelerators=1), runtime("b", accelerators=2)]
    before = plan(fleet, wanted)
    split = plan(fleet, wanted, before, **SPLIT, resize=True)
    assert groups(split, "b") == groups(before, "b")
    assert placed(split, "b")["cpu_count"] == 8
    assert {each["action"] for each in split["changes"]} == {"move"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan([], [], replicas={"r": 1}), "replicas: no runtime 'r'; there are none"),
        (lambda: plan([], [runtime("run")], move=frozenset({"runn"})), "move: no runtime 'runn'; did you mean 'run'?"),
        (lambda: plan([host("gpu-1")], [], drain=frozenset({"gpu1"})), "drain: no host 'gpu1'; did you mean 'gpu-1'?"),
        (lambda: plan([host("a"), host("a")], []), "capacities: host a is there twice"),
        (lambda: plan([], [runtime("r"), runtime("r")]), "runtimes: 'r' is there twice; names are unique"),
        (lambda: plan([], [runtime("r" * 60, replicas=2)]), "has at most 59 characters"),
        (lambda: plan([], [{"metadata": {}}]), "runtimes: misses 'spec'; expected the runtimes of runtime_manifest"),
        (lambda: plan([], [], {"placements": []}), "plan: schema_version is None, expected 1"),
        (lambda: plan([], [], {"schema_version": 1, "placements": 3}), "plan: placements is '3', expected a list"),
        (lambda: plan([], [], {"schema_version": 1, "placements": [{}]}), "plan: runtime is 'None', expected text"),
        (lambda: plan_data([{"host": "a"}], [], None, Options()), "capacity: schema_version is None, expected 1"),
        (lambda: plan_data([7], [], None, Options()), "capacity: found '7', expected a mapping"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError) as refused:
        call()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_hosts_and_no_runtimes_are_a_plan() -> None:
    assert plan([], [])["placements"] == []
    found = plan([], [runtime("r")])
    assert found["unplaced"] == [{"runtime": "r", "replicas": [0], "reason": "there is no host", "nearest": None}]


def test_what_nobody_wants_on_a_host_that_is_away_leaves_when_it_is_back() -> None:
    fleet = [host("a"), host("b"), host("c")]
    three = plan(fleet, [runtime("r", replicas=3)])
    assert where(three) == {"r": "a", "r.1": "b", "r.2": "c"}
    here, fewer = [fleet[0], fleet[1]], [runtime("r", most=3)]
    away = plan(here, fewer, three, replicas={"r": 1}, absent=frozenset({"c"}))
    assert where(away) == {"r": "a", "r.2": "c"}
    assert placed(away, "r.2")["leaving"] is True
    assert why(away, "r.2") == ("keep", "1 replica is wanted; c could not be read, so it leaves later")
    # It is none of those that run, and its number is not given to another.
    assert where(plan(here, fewer, away, absent=frozenset({"c"}))) == {"r": "a", "r.2": "c"}
    again = plan(here, [runtime("r", most=4)], away, replicas={"r": 3}, absent=frozenset({"c"}))
    assert sorted(where(again)) == ["r", "r.1", "r.2", "r.3"]
    assert where(plan(fleet, fewer, away)) == {"r": "a"}
    # Wanted again, it is found where it is.
    back = plan(fleet, fewer, away, replicas={"r": 3})
    assert "leaving" not in placed(back, "r.2")
    assert where(back)["r.2"] == "c"


def test_a_manifest_that_is_gone_leaves_a_host_that_is_away_later() -> None:
    fleet = [host("a")]
    before = plan(fleet, [runtime("r")])
    away = plan([], [], before, absent=frozenset({"a"}))
    assert placed(away, "r")["leaving"] is True
    assert where(plan(fleet, [], away)) == {}


def test_a_split_leaves_room_for_the_monitors() -> None:
    fleet = [host("a", [A40] * 4, cores=(8,), memory_gib=(64,), vmm_mib=256), host("b", memory_gib=(4,), vmm_mib=768)]
    wanted = [runtime("gpu", accelerators=1, most=4), runtime("cpu", accelerators=0)]
    found = plan(fleet, wanted, **SPLIT)
    on_a = [each for each in found["placements"] if each["host"] == "a"]
    assert [each["memory_mib"] for each in on_a] == [16 * 1024 - 256] * 4
    assert placed(found, "cpu")["vmm_memory"] == [{"node": 0, "mib": 768}]
    assert placed(found, "cpu")["memory_mib"] <= 4096 - 768
    assert found["hosts"]["a"]["memory_mib_used"] == 64 * 1024
    # It is kept as it is when more is counted later; only what is new is counted so.
    later = plan([replace(each, vmm_mib=1024) for each in fleet], wanted, found, **SPLIT)
    assert later["placements"] == found["placements"]


def test_a_guest_as_large_as_its_host_leaves_no_room_for_its_monitor() -> None:
    found = plan([host("a", memory_gib=(4,), vmm_mib=256)], [runtime("r", memory_gib=4)])
    assert found["unplaced"][0]["nearest"]["text"].endswith("a lacks 256 MiB of memory; there memory 3840Mi would fit")
