"""How many replicas: what holds whatever the load, the memory and the clock; and examples to read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.scaling import (
    Count,
    Decision,
    Load,
    Memory,
    Moment,
    Rule,
    ScalingError,
    decide,
    needed,
    recall,
    remember,
    rule_of,
)

RULE = Rule()
BUSY, IDLE = Load(10, 16, 0.9), Load(0, 0, 0.0)
LOADS = st.builds(Load, *[st.floats(0, 500)] * 2, st.floats(0, 1))
TIMES = st.floats(0, 1e7)
MEMORIES = st.builds(Memory, TIMES, st.none() | TIMES)
RULES = st.builds(
    Rule,
    requests=st.floats(0.5, 300),
    waiting=st.floats(0, 50),
    kv_cache=st.floats(0.05, 1),
    margin=st.floats(0, 0.9),
    step=st.integers(1, 5),
    up_after=st.floats(0, 5000),
    down_after=st.floats(0, 5000),
)


@st.composite
def counts(draw: st.DrawFn) -> Count:
    least = draw(st.integers(0, 5))
    most = draw(st.integers(max(1, least), 12))
    return Count(draw(st.integers(0, 14)), least, most)


@given(counts(), st.lists(LOADS, max_size=14), MEMORIES, TIMES, RULES)
def test_always_within_the_manifest_and_never_in_a_leap(
    count: Count, loads: list[Load], memory: Memory, now: float, rule: Rule
) -> None:
    done = decide(count, loads, memory, now, rule)
    assert count.least <= done.replicas <= count.most
    if count.least <= count.current <= count.most and count.current:
        assert -1 <= done.replicas - count.current <= rule.step
        assert done.replicas >= 1
    changed = done.replicas != count.current
    assert done.memory.changed == (now if changed else memory.changed)
    assert done.reason


@given(counts(), st.lists(LOADS, max_size=14), MEMORIES, TIMES, RULES)
def test_who_does_not_tell_never_ends_a_replica(
    count: Count, loads: list[Load], memory: Memory, now: float, rule: Rule
) -> None:
    if count.least <= count.current <= count.most and len(loads) < count.current:
        assert decide(count, loads, memory, now, rule).replicas >= count.current


@given(st.integers(1, 10), st.lists(LOADS, min_size=1, max_size=10), MEMORIES, st.tuples(TIMES, TIMES), RULES)
def test_nothing_happens_before_its_time(
    current: int, loads: list[Load], memory: Memory, times: tuple[float, float], rule: Rule
) -> None:
    """Whatever the load does between two rounds, a change is up_after or down_after later than the one before."""
    now, later = times
    first = decide(Count(current, 1, 12), loads, memory, now, rule)
    if first.replicas == current:
        return
    second = decide(Count(first.replicas, 1, 12), loads, first.memory, later, rule)
    if second.replicas > first.replicas:
        assert max(0.0, later - now) >= rule.up_after
    if second.replicas < first.replicas:
        assert max(0.0, later - now) >= rule.down_after


@given(st.integers(1, 10), st.lists(LOADS, min_size=1, max_size=10), RULES)
def test_what_was_removed_is_not_needed_again_at_once(current: int, loads: list[Load], rule: Rule) -> None:
    loads = (loads * current)[:current]
    done = decide(Count(current, 1, 12), loads, Memory(0, 0), 1e9, rule)
    if done.replicas < current:
        assert needed(loads, rule) <= done.replicas
        # The same load on those that are left asks for no more of them.
        part = [Load(0, load.running * current / done.replicas, 0) for load in loads][: done.replicas]
        again = decide(Count(done.replicas, 1, 12), part, done.memory, 2e9, rule)
        assert again.replicas <= done.replicas


@given(st.lists(LOADS, min_size=1, max_size=10), st.floats(1, 5), RULES)
def test_more_load_never_needs_fewer(loads: list[Load], factor: float, rule: Rule) -> None:
    more = [Load(load.waiting * factor, load.running * factor, min(1.0, load.kv_cache * factor)) for load in loads]
    assert needed(more, rule) >= needed(loads, rule)
    assert needed(loads, rule, rule.margin) >= needed(loads, rule)


def test_a_busy_one_gets_others_step_by_step() -> None:
    now, count, memory = 1000.0, 1, Memory(0)
    seen = []
    for _round in range(40):
        done = decide(Count(count, 1, 6), [BUSY] * count, memory, now, RULE)
        if done.replicas != count:
            seen.append((now, done.replicas))
        count, memory, now = done.replicas, done.memory, now + 30
    assert seen == [(1000.0, 2), (1120.0, 4), (1240.0, 6)]


def test_an_idle_one_shrinks_after_a_quarter_of_an_hour_each() -> None:
    now, count, memory = 10000.0, 3, Memory(0)
    seen = []
    for _round in range(80):
        done = decide(Count(count, 1, 6), [IDLE] * count, memory, now, RULE)
        if done.replicas != count:
            seen.append((now, done.replicas))
        count, memory, now = done.replicas, done.memory, now + 30
    assert seen == [(10900.0, 2), (11830.0, 1)]


def test_a_short_lull_ends_nothing() -> None:
    memory = Memory(0)
    for now in range(10000, 20000, 30):
        load = BUSY if now % 600 == 10000 % 600 else IDLE
        done = decide(Count(2, 1, 2), [load] * 2, memory, now, RULE)
        assert done.replicas == 2
        memory = done.memory


def test_a_queue_is_reason_enough() -> None:
    done = decide(Count(2, 1, 4), [Load(9, 4, 0.1), Load(0, 4, 0.1)], Memory(0), 1000, RULE)
    assert (done.replicas, done.reason) == (3, "9 requests wait")


def test_none_stays_none() -> None:
    assert decide(Count(0, 0, 4), [], Memory(0), 1000, RULE).replicas == 0
    assert decide(Count(1, 0, 4), [IDLE], Memory(0, 0), 1e6, RULE).replicas == 1


def moments(boot: str, *seconds: float) -> list[Moment]:
    return [Moment(boot, each) for each in seconds]


@pytest.mark.parametrize(
    "clock",
    [
        moments("one", 5000, 5030, 10, 40, 70),  # back
        moments("one", 5000, 9e9, 9e9 + 30, 5060),  # forward and back again
        [*moments("one", 5000, 5030), *moments("two", 20, 50, 80)],  # another boot, or another machine
        moments("one", 0.0, -50.0, -20.0),
    ],
)
@pytest.mark.parametrize("load", [BUSY, IDLE])
def test_a_clock_that_jumps_makes_one_step_at_most(clock: list[Moment], load: Load) -> None:
    """As a whole round does it, by way of the file: what lies ahead or is of another boot begins anew."""
    state, count, steps = None, 3, 0
    for moment in clock:
        memory = recall(state, moment).get("r", Memory(moment.seconds))
        done = decide(Count(count, 1, 6), [load] * count, memory, moment.seconds, RULE)
        steps += done.replicas != count
        count = done.replicas
        state = remember({"r": done}, moment, "2026-01-01 00:00:00 UTC")
    assert steps <= 1


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"schema_version": 2},
        {"schema_version": 1, "boot": "b", "runtimes": []},
        {"schema_version": 1, "boot": "b", "runtimes": {"r": None}},
        {"schema_version": 1, "boot": "b", "runtimes": {"r": {"changed": "soon", "low_since": math.nan}}},
        {"schema_version": 1, "boot": "b", "runtimes": {"r": {"changed": 1e300, "low_since": 10**400}}},
    ],
)
def test_a_spoilt_memory_begins_anew(state: object) -> None:
    assert recall(state, Moment("b", 100)).get("r", Memory(100)) == Memory(100)


def test_what_is_remembered_is_read_again() -> None:
    done = Decision(2, "because", Memory(12.5, 99.0))
    state = remember({"r": done}, Moment("b", 100), "2026-01-01 00:00:00 UTC")
    assert recall(state, Moment("b", 130)) == {"r": done.memory}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"requests": 0}, "requests is 0; allowed: more than 0"),
        ({"kv_cache": "1.5"}, "kv_cache is 1.5; allowed: more than 0, at most 1"),
        ({"step": 0.5}, "step is 0.5; allowed: a whole number, 1 or more"),
        ({"margin": 1}, "margin is 1; allowed: 0 or more, less than 1"),
        ({"up_after": "nan"}, "up_after is nan; allowed: 0 or more"),
        ({"down_after": -1}, "down_after is -1; allowed: 0 or more"),
        ({"waiting": True}, "waiting is True; allowed: 0 or more"),
    ],
)
def test_a_rule_that_is_not_possible(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ScalingError) as refused:
        rule_of(settings)
    assert said in str(refused.value)


def test_settings_are_text_at_times() -> None:
    assert rule_of({"step": "3", "requests": "8", "margin": None}) == replace(RULE, step=3, requests=8.0)
