# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What came of planning, as plain data: placements, the difference to the plan before, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .demand import Options, Wish
from .explain import Explainer
from .fleet import Fleet, Placed
from .records import LEAVING, SCHEMA_VERSION, Record, instance, placement_of
from .state import threads

Key = tuple[str, int]
ADD, KEEP, MOVE, REMOVE = "add", "keep", "move", "remove"


@dataclass
class Outcome:
    """The fleet with all placements, the plan before (``records``), and why things are as they are, by replica.

    ``pinned`` have the very place they had, ``left_alone`` are on hosts that could not be read, ``leaving`` are those
    of them that nobody wants any more, ``left`` did not fit, ``refused`` run on because what their manifest asks for
    now does not fit, ``gave_way`` made room for another, ``extra`` are more than wanted, for a split, ``resized`` got a
    new share of their host.
    """

    fleet: Fleet
    wishes: dict[str, Wish]
    records: dict[Key, Record]
    wanted: dict[str, int] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    pinned: dict[Key, Placed] = field(default_factory=dict)
    left_alone: dict[Key, Record] = field(default_factory=dict)
    leaving: set[Key] = field(default_factory=set)
    left: list[tuple[Wish, int]] = field(default_factory=list)
    refused: dict[Key, Wish] = field(default_factory=dict)
    gave_way: dict[Key, str] = field(default_factory=dict)
    extra: set[Key] = field(default_factory=set)
    resized: set[Key] = field(default_factory=set)


def plan_of(outcome: Outcome, options: Options) -> dict[str, Any]:
    """Return the plan."""
    explainer = Explainer(outcome.fleet)
    placements = {
        key: {**record.data, LEAVING: True} if key in outcome.leaving else record.data
        for key, record in outcome.left_alone.items()
    }
    for key, placed in outcome.fleet.placed.items():
        if outcome.pinned.get(key) is placed and _groups(outcome, placed) == outcome.records[key].groups:
            placements[key] = outcome.records[key].data
        else:
            placements[key] = placement_of(outcome.fleet, placed)
    changes = [_change(outcome, explainer, key, placements.get(key)) for key in sorted({*placements, *outcome.records})]
    unplaced = _unplaced(outcome, explainer)
    actions = [change["action"] for change in changes]
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": {
            "cpu": options.cpu,
            "memory": options.memory,
            "accelerators": options.accelerators,
            "strategy": options.strategy,
            "numa": options.numa,
            "preempt": options.preempt,
        },
        "placements": [placements[key] for key in sorted(placements)],
        "changes": changes,
        "unplaced": unplaced,
        "hosts": _hosts(outcome),
        "summary": {
            **{action: actions.count(action) for action in (ADD, KEEP, MOVE, REMOVE)},
            "unplaced": sum(len(each["replicas"]) for each in unplaced),
        },
    }


def _change(outcome: Outcome, explainer: Explainer, key: Key, placement: Mapping[str, Any] | None) -> dict[str, Any]:
    record = outcome.records.get(key)
    if record is None:
        action, reason = ADD, _why_new(outcome, key)
    elif placement is None:
        action, reason = REMOVE, _why_gone(outcome, key)
    elif key in outcome.leaving:
        action, reason = KEEP, f"{_why_gone(outcome, key)}; {record.host} could not be read, so it leaves later"
    else:
        action, reason = KEEP if _same(placement, record) else MOVE, outcome.reasons[key]
        if key in outcome.gave_way:
            reason = f"made room for {outcome.gave_way[key]}"
        elif action == MOVE and reason == "runs" and key in outcome.resized and record.host == placement["host"]:
            reason = "its host is divided again"
        elif action == MOVE and reason == "runs":
            reason = "stepped aside for another, as it was asked to"
        if key in outcome.refused:
            reason = f"runs on as it was: {reason}, but {explainer.why(outcome.refused[key])[0]}"
    return {
        "action": action,
        "id": instance(*key),
        "runtime": key[0],
        "replica": key[1],
        "from": record.host if record else None,
        "to": placement["host"] if placement else None,
        "reason": reason,
    }


def _groups(outcome: Outcome, placed: Placed) -> tuple[int, ...]:
    units = outcome.fleet.states[placed.host].capacity.units
    return tuple(sorted(group for unit in placed.grant.units for group in units[unit].groups))


def _same(placement: Mapping[str, Any], record: Record) -> bool:
    if placement is record.data:
        return True
    names = ("host", "cpu_count", "cpus", "memory", "hugepage_kib", "devices")
    return all(placement[name] == record.data.get(name) for name in names)


def _why_new(outcome: Outcome, key: Key) -> str:
    if key in outcome.extra:
        return "its accelerators were free"
    known = any(name == key[0] for name, _replica in outcome.records)
    return f"{outcome.wanted[key[0]]} replicas are wanted" if known else "new runtime"


def _why_gone(outcome: Outcome, key: Key) -> str:
    if key[0] not in outcome.wishes:
        return "no manifest names it"
    if key in outcome.gave_way:
        return f"made room for {outcome.gave_way[key]}"
    if key in outcome.reasons:
        return f"{outcome.reasons[key]}, and it fits nowhere else"
    wanted = outcome.wanted[key[0]]
    return f"{wanted} {'replica is' if wanted == 1 else 'replicas are'} wanted"


def _unplaced(outcome: Outcome, explainer: Explainer) -> list[dict[str, Any]]:
    numbers: dict[str, list[int]] = {}
    for wish, replica in outcome.left:
        numbers.setdefault(wish.name, []).append(replica)
    result = []
    for name, replicas in sorted(numbers.items()):
        reason, nearest = explainer.why(outcome.wishes[name])
        result.append({"runtime": name, "replicas": sorted(replicas), "reason": reason, "nearest": nearest})
    return result


def _hosts(outcome: Outcome) -> dict[str, Any]:
    on: dict[int, int] = {}
    for placed in outcome.fleet.placed.values():
        on[placed.host] = on.get(placed.host, 0) + 1
    return {
        state.capacity.host: {
            "cpus": state.capacity.cpus,
            "cpus_used": state.capacity.cpus - sum(map(threads, state.cores)),
            "memory_mib": state.capacity.memory_mib,
            "memory_mib_used": state.capacity.memory_mib - sum(state.memory),
            "accelerators": state.capacity.accelerators,
            "accelerators_used": state.capacity.accelerators - state.free_accelerators,
            "replicas": on.get(position, 0),
        }
        for position, state in enumerate(outcome.fleet.states)
    }
