"""Which replicas leave a host, and when."""

from __future__ import annotations

from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_leavers import (
    AFTER,
    CONFIGURED,
    KEPT,
    NOW,
    SERVED,
    leavers,
    placed_here,
    unsettled,
)


def placement(name: str, host: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "host": host, **more}


def test_what_serves_elsewhere_leaves_last() -> None:
    known = {"one": SERVED, "two": SERVED, "gone": SERVED}
    placements = [placement("one", "a"), placement("two", "b")]
    assert leavers(known, placements, "a", ["a", "b"]) == {NOW: [], AFTER: ["gone", "two"], KEPT: []}


def test_it_goes_on_when_its_new_host_was_not_reached() -> None:
    known = {"one": SERVED, "two": SERVED, "gone": CONFIGURED}
    placements = [placement("one", "a"), placement("two", "b")]
    assert leavers(known, placements, "a", ["a"]) == {NOW: [], AFTER: ["gone"], KEPT: ["two"]}


def test_what_never_served_here_may_need_the_room() -> None:
    placements = [placement("one", "a"), placement("two", "b")]
    expected = {NOW: ["two"], AFTER: [], KEPT: []}
    assert leavers({"two": SERVED}, placements, "a", ["a"]) == expected
    # A run that was interrupted has remembered the new one.
    assert leavers({"one": CONFIGURED, "two": SERVED}, placements, "a", ["a"]) == expected


def test_only_the_named_and_only_the_planned() -> None:
    assert leavers({"one": SERVED, "two": SERVED}, [], "a", [], ["two", "by-hand"])[AFTER] == ["two"]
    assert leavers({}, [], "a", [])[AFTER] == []


def test_what_is_leaving_is_placed_nowhere() -> None:
    placements = [placement("one", "a", leaving=True), placement("two", "a")]
    assert placed_here(placements, "a") == ["two"]
    assert leavers({"one": SERVED, "two": SERVED}, placements, "a", ["a"])[AFTER] == ["one"]


def test_what_is_otherwise_than_the_plan_says() -> None:
    placements = [placement("one", "a"), placement("two", "b"), placement("new", "b"), placement("away", "c")]
    known = {"a": {"one": SERVED, "two": SERVED}, "b": {"two": CONFIGURED}}
    assert unsettled(placements, known) == ["new", "two"]
    assert unsettled(placements[:1], {"a": {"one": SERVED}}) == []
