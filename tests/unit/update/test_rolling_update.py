"""Which replicas an update replaces, why, in which order, and who has to serve meanwhile."""

from __future__ import annotations

from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils import rolling_update

SERVED = {"image": "demo 1", "cpu_count": 2}


def replica(name: str, *, before: str = "running", reason: str = "", **entry: Any) -> tuple[dict[str, Any], ...]:
    """An entry, its runtime, and what the module said."""
    runtime = {"metadata": {"name": name}, "spec": {"model": {"name": "m"}}, "replica_of": name.partition(".")[0]}
    asked = {"runtime": {"name": name}, "before": before, "reason": reason}
    return {"name": name, **SERVED, "health_url": "http://h/health", **entry}, runtime, asked


def due(
    *replicas: tuple[dict[str, Any], ...],
    differing: tuple[str, ...] = (),
    serving: tuple[str, ...] = (),
    configs: tuple[str, ...] = (),
    **records: Any,
) -> dict[str, list[str]]:
    """The reasons by name, in the order of the update."""
    entries, runtimes, asked = zip(*replicas, strict=True)
    images = [{"item": runtime, "changed": runtime["metadata"]["name"] in configs} for runtime in runtimes]
    compared = {"asked": asked, "differing": differing, "serving": serving}
    found = rolling_update.due(entries, runtimes, records, compared, images)
    return {each["name"]: each["reasons"] for each in found}


def test_what_runs_as_it_should_is_left_alone() -> None:
    assert due(replica("a"), a={"served": SERVED}) == {"a": []}


def test_what_does_not_run_is_left_alone() -> None:
    assert due(replica("a", before="stopped"), differing=("a",)) == {"a": []}


def test_the_reason_is_what_changed_as_far_as_that_is_known() -> None:
    changed = replica("a", image="demo 2", cpu_count=4)
    assert due(changed, differing=("a",), a={"served": SERVED}) == {"a": ["image demo 1 -> demo 2", "CPUs 2 -> 4"]}
    assert due(replica("a"), configs=("a",), a={"served": SERVED}) == {"a": ["its guest's configuration"]}
    assert due(replica("a"), differing=("a",)) == {"a": ["its environment file or unit"]}
    assert due(replica("a", reason="newer than its start: /a.env")) == {"a": ["newer than its start: /a.env"]}


def test_an_update_that_did_not_end_goes_on_whatever_runs() -> None:
    for before in ("stopped", "running"):
        assert due(replica("a", before=before), a={"update": {"time": "t"}}) == {"a": ["its last update did not end"]}


def test_what_is_held_is_due_only_to_come_back() -> None:
    held = replica("a", held="demo 2 was refused", image="demo 1")
    assert due(held) == {"a": []}
    assert due(held, differing=("a",)) == {"a": ["what served before comes back"]}


def test_what_does_not_serve_is_replaced_first() -> None:
    order = list(due(replica("a"), replica("a.1"), replica("b"), serving=("a", "b"), differing=("a", "a.1", "b")))
    assert order == ["a.1", "a", "b"]


def step(name: str, serves: bool, *reasons: str) -> dict[str, Any]:
    return {"name": name, "serves": serves, "reasons": list(reasons), "runs": True, "held": "", "health_url": "u"}


def test_hosts_take_turns_those_with_something_broken_first() -> None:
    hosts = {
        "h1": [step("a", True, "why")],
        "h2": [step("a", False, "why"), step("b", True, "why")],
        "h3": [step("a", False)],
        "h0": [step("a", True, "why")],
        "h4": [],
    }
    assert rolling_update.order(hosts) == ["h2", "h0", "h1"]
    assert rolling_update.order(dict(reversed(hosts.items()))) == ["h2", "h0", "h1"]


def test_replicas_are_the_plans_or_one_on_each_host_that_is_allowed() -> None:
    runtimes = [
        {"metadata": {"name": "a"}, "spec": {"placement": {"hosts": []}}},
        {"metadata": {"name": "b"}, "spec": {"placement": {"hosts": ["h2"]}}},
    ]
    assert rolling_update.siblings(runtimes, ["h2", "h1"]) == {
        "a": [{"host": "h1", "name": "a"}, {"host": "h2", "name": "a"}],
        "b": [{"host": "h2", "name": "b"}],
    }
    placed = [{"runtime": "a", "host": "h1", "id": "a"}, {"runtime": "a", "host": "h1", "id": "a.1"}]
    assert rolling_update.siblings(runtimes, ["h1"], placed) == {
        "a": [{"host": "h1", "name": "a"}, {"host": "h1", "name": "a.1"}]
    }
    assert rolling_update.siblings(runtimes, ["h1"], []) == {}


def test_who_serves_is_asked_first_and_who_is_not_known_counts() -> None:
    there = [{"host": host, "name": "a"} for host in ("h1", "h2", "h3", "h9")]
    known = {"h1": [step("a", True)], "h2": [step("a", False)], "h3": [step("a", True)]}
    found = rolling_update.others(there, "a", "h1", known)
    assert found["count"] == 3
    assert [each["host"] for each in found["known"]] == ["h3", "h2"]
    alone = rolling_update.others(there[:1], "a", "h1", known)
    assert alone == {"count": 0, "known": []}


def test_each_replica_has_its_line() -> None:
    found = [
        step("c", True, "image demo 1 -> demo 2", "CPUs 2 -> 4"),
        step("a", True),
        {**step("b", True), "held": "demo 2 was refused here"},
        {**step("d", False), "runs": False},
    ]
    assert rolling_update.lines(found, "h1") == [
        "a on h1: as wanted",
        "b on h1: kept as it is: demo 2 was refused here",
        "c on h1: to be replaced: image demo 1 -> demo 2, CPUs 2 -> 4",
        "d on h1: does not run, and is left so; start starts it",
    ]
