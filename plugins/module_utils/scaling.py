# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How many replicas a runtime should have, from what its replicas say about their load.

Pure functions: what was measured, what is remembered and the time go in, a number and its reason come out. The rule is
that of Kubernetes' horizontal pod autoscaler, load divided by what one replica should carry, rounded up, with two
thresholds instead of one and a pause after each change. What nobody measured never ends a replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

SCHEMA_VERSION = 1


class ScalingError(ValueError):
    """Something that was given is not possible; the message is one line."""


@dataclass(frozen=True)
class Load:
    """What one healthy replica says: requests that wait and that run, and the part of its KV cache in use, 0 to 1."""

    waiting: float
    running: float
    kv_cache: float


@dataclass(frozen=True)
class Rule:
    """What one replica should carry, and how quickly the number follows.

    ``requests`` in work and ``waiting`` in its queue, ``kv_cache`` in use. Down only where the replicas that are left
    would carry it with ``margin`` to spare. At most ``step`` replicas more at once, one fewer. ``up_after`` and
    ``down_after`` are seconds since the last change; for the way down, load must have been low for as long, too.
    """

    requests: float = 16.0
    waiting: float = 2.0
    kv_cache: float = 0.8
    margin: float = 0.3
    step: int = 2
    up_after: float = 120.0
    down_after: float = 900.0


@dataclass(frozen=True)
class Count:
    """How many replicas the plan has, and how few and how many the manifest allows."""

    current: int
    least: int
    most: int


@dataclass(frozen=True)
class Moment:
    """A time: seconds since ``boot``. Nobody can set this clock, so no jump of the calendar reaches a decision."""

    boot: str
    seconds: float


@dataclass(frozen=True)
class Memory:
    """What is remembered of a runtime: when its number changed last, and since when its load has been low."""

    changed: float
    low_since: float | None = None


@dataclass(frozen=True)
class Decision:
    """A runtime's number of replicas from now on, why, and what to remember."""

    replicas: int
    reason: str
    memory: Memory


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """Return the rule with the ``settings`` that are given. Raises ScalingError."""
    given: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None:
            continue
        number = _number(value)
        if number is None or number < 0 or (name == "step" and (number < 1 or number != int(number))):
            raise ScalingError(f"scaling: {name} is {str(value)[:40]}; allowed: {_ALLOWED.get(name, '0 or more')}")
        given[name] = int(number) if name == "step" else number
    rule = replace(Rule(), **given)
    for name, good in (
        ("requests", rule.requests > 0),
        ("kv_cache", 0 < rule.kv_cache <= 1),
        ("margin", rule.margin < 1),
    ):
        if not good:
            raise ScalingError(f"scaling: {name} is {getattr(rule, name):g}; allowed: {_ALLOWED[name]}")
    return rule


_ALLOWED = {
    "requests": "more than 0",
    "kv_cache": "more than 0, at most 1",
    "margin": "0 or more, less than 1",
    "step": "a whole number, 1 or more",
}


def _number(value: Any) -> float | None:
    """Return a finite number, also one that Ansible made text of, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def needed(loads: Iterable[Load], rule: Rule, margin: float = 0.0) -> int:
    """Return how many replicas would carry the load, each leaving ``margin`` (0 to 1) of what it should carry."""
    loads = list(loads)
    requests = sum(load.waiting + load.running for load in loads)
    kv_cache = sum(load.kv_cache for load in loads)
    part = 1 - margin
    # Rounded first: three times 0.8 of 0.8 is 3 replicas, whatever binary fractions make of it.
    return math.ceil(round(max(requests / (rule.requests * part), kv_cache / (rule.kv_cache * part)), 6))


def decide(count: Count, loads: Iterable[Load], memory: Memory, now: float, rule: Rule) -> Decision:
    """Return the number for a runtime, of whose replicas ``loads`` are healthy and tell.

    The number stays within what its manifest allows, but the rule alone never goes below 1: nothing would tell when one
    is wanted again. ``now`` and the memory are seconds of one clock.
    """
    current, least, most = count.current, count.least, count.most
    loads = list(loads)
    if current == 0 and least == 0:
        return Decision(0, "none is wanted; scale it by hand to begin", Memory(memory.changed))
    bounded = max(least, 1, min(most, current))
    if bounded != current:
        return Decision(bounded, f"spec.scaling allows {least} to {most}", Memory(now))
    silent = max(0, current - len(loads))
    if not loads:
        return Decision(current, "no replica tells its load", Memory(memory.changed))
    since = max(0.0, now - memory.changed)
    want, why = _more(current, loads, rule)
    if want > current:
        if current >= most:
            return Decision(current, f"{why}, but spec.scaling allows {most}", Memory(memory.changed))
        if since < rule.up_after:
            return Decision(current, f"{why}; changed {since:.0f} s ago, waits", Memory(memory.changed))
        return Decision(min(most, want, current + rule.step), why, Memory(now))
    if silent:
        return Decision(current, f"{silent} of {current} replicas do not tell their load", Memory(memory.changed))
    if current <= max(least, 1) or _busy(loads) or needed(loads, rule, rule.margin) >= current:
        return Decision(current, "as it should be", Memory(memory.changed))
    low_since = now if memory.low_since is None else memory.low_since
    low = max(0.0, now - low_since)
    if low < rule.down_after or since < rule.down_after:
        return Decision(current, f"fewer would do, for {low:.0f} s now; waits", Memory(memory.changed, low_since))
    return Decision(current - 1, f"{current - 1} carry the load", Memory(now))


def _more(current: int, loads: list[Load], rule: Rule) -> tuple[int, str]:
    """Return how many replicas are needed and the words for it. Silent ones count as idle: they may be starting."""
    want = needed(loads, rule)
    waiting = sum(load.waiting for load in loads)
    requests = waiting + sum(load.running for load in loads)
    cache = sum(load.kv_cache for load in loads) / len(loads)
    if waiting > rule.waiting * current and want <= current:
        return current + 1, f"{waiting:g} requests wait"
    return want, f"{requests:g} requests and {cache:.0%} of the KV cache ask for {want} replicas"


def _busy(loads: list[Load]) -> bool:
    return any(load.waiting > 0 for load in loads)


def recall(state: Any, moment: Moment) -> dict[str, Memory]:
    """Return what is remembered, by runtime. What is of another boot, or spoilt, begins anew: as if just changed."""
    if not isinstance(state, Mapping) or state.get("schema_version") != SCHEMA_VERSION:
        return {}
    runtimes = state.get("runtimes")
    found = {}
    for name, each in (runtimes if isinstance(runtimes, Mapping) else {}).items():
        known = each if isinstance(each, Mapping) and state.get("boot") == moment.boot else {}
        times = [_number(known.get("changed")), _number(known.get("low_since"))]
        changed, low_since = (each if each is not None and each <= moment.seconds else None for each in times)
        found[str(name)] = Memory(moment.seconds if changed is None else changed, low_since)
    return found


def remember(decisions: Mapping[str, Decision], moment: Moment, calendar: str) -> dict[str, Any]:
    """Return the state for the file; ``calendar`` is for people."""
    return {
        "schema_version": SCHEMA_VERSION,
        "boot": moment.boot,
        "time": calendar,
        "runtimes": {
            name: {
                "replicas": decision.replicas,
                "changed": decision.memory.changed,
                "low_since": decision.memory.low_since,
                "said": decision.reason,
            }
            for name, decision in sorted(decisions.items())
        },
    }
