"""How hosts move along the positions of a rotation, whatever was interrupted."""

from __future__ import annotations

import random
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import rotation

ORDER = {position: number for number, position in enumerate(rotation.POSITIONS)}


@pytest.mark.parametrize(
    ("hosts", "goal", "steps"),
    [
        (["old", "old"], "new", ["trust", "swap", "new"]),
        (["old", "old"], "trust", ["trust"]),
        (["trust", "old"], "new", ["trust", "swap", "new"]),
        (["trust", "swap"], "swap", ["swap"]),
        (["swap", "new"], "new", ["new"]),
        (["new", "new"], "new", []),
        (["swap", "swap"], "old", ["trust", "old"]),
        (["trust", "swap"], "old", ["trust", "old"]),
        (["trust", "trust-swap"], "old", ["trust", "old"]),
        (["trust", "trust-swap"], "new", ["swap", "new"]),
        (["swap-trust"], "swap", ["swap"]),
        (["swap-new"], "new", ["new"]),
        (["trust", "old"], "old", ["old"]),
        (["old"], "old", []),
    ],
)
def test_steps(hosts: list[str], goal: str, steps: list[str]) -> None:
    assert rotation.next_positions({str(n): each.split("-") for n, each in enumerate(hosts)}, goal) == steps


@pytest.mark.parametrize(
    ("hosts", "goal", "reason"),
    [
        (["old", "swap"], "new", "further apart than a rotation leaves hosts"),
        (["swap", "new"], "old", "there is no way back"),
        (["swap-new", "swap"], "swap", "there is no way back"),
        (["old", "trust-swap"], "new", "further apart than a rotation leaves hosts"),
        (["new"], "trust", "there is no way back"),
        ([], "new", "there is no host"),
        (["old"], "later", "allowed: old, trust, swap, new"),
    ],
)
def test_refusals(hosts: list[str], goal: str, reason: str) -> None:
    with pytest.raises(NodeError, match=reason):
        rotation.next_positions({str(n): each.split("-") for n, each in enumerate(hosts)}, goal)


def believe_each_other(hosts: list[list[str]]) -> bool:
    """Whether each host, at or between its positions, believes who signs for each other."""
    at = [position for each in hosts for position in each]
    return all(rotation.signer(one) in rotation.believed(other) for one in at for other in at)


@settings(deadline=None)  # a busy machine is slow
@given(
    count=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    goals=st.lists(st.sampled_from(rotation.POSITIONS), min_size=1, max_size=6),
)
def test_whatever_is_interrupted_all_believe_each_other(count: int, seed: int, goals: list[str]) -> None:
    """Runs towards any goals, each ended anywhere, also within a move: no two hosts are ever cut off."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, no secret
    hosts = {str(n): ["old"] for n in range(count)}
    for goal in goals:
        moves_left = chance.randrange(3 * count + 1)
        try:
            steps = rotation.next_positions(hosts, goal)
        except NodeError as error:
            assert "no way back" in str(error) and "new" in chain.from_iterable(hosts.values())
            continue
        for position in steps:
            for host in chance.sample(sorted(hosts), count):
                if hosts[host] != [position] and moves_left:
                    moves_left -= 1
                    hosts[host] = [*hosts[host], position] if position not in hosts[host] else hosts[host]
                    assert len(hosts[host]) == 2 and abs(ORDER[hosts[host][0]] - ORDER[hosts[host][1]]) == 1
                    assert believe_each_other(list(hosts.values()))
                    if moves_left or chance.random() < 0.5:
                        hosts[host] = [position]
            if any(at != [position] for at in hosts.values()):
                break  # interrupted
    steps = rotation.next_positions(hosts, "new")
    assert not steps or steps[-1] == "new"


def test_neighbours_believe_each_other_and_others_do_not() -> None:
    assert all(believe_each_other([list(pair)]) for pair in pairwise(rotation.POSITIONS))
    assert not believe_each_other([["old"], ["swap"]])


@pytest.mark.parametrize(
    ("believed", "signers", "position"),
    [
        ({"a"}, {"a"}, "old"),
        ({"a", "b"}, {"a"}, "trust"),
        ({"a", "b"}, {"a", "b"}, "trust"),
        ({"a", "b"}, set(), "trust"),
        ({"a", "b"}, {"b"}, "swap"),
        ({"b"}, {"b"}, "new"),
    ],
)
def test_a_host_without_a_record_is_where_its_files_say(believed: set[str], signers: set[str], position: str) -> None:
    assert rotation.derived(believed, signers, "a", "b") == position


def test_another_clusters_host_is_refused() -> None:
    with pytest.raises(NodeError, match="node of another cluster"):
        rotation.derived({"x"}, {"x"}, "a", "b")


def test_a_record_is_kept_and_a_broken_one_refused() -> None:
    kept = rotation.Record("etcd", "swap", "sha256:a", "sha256:b", 12.5)
    assert rotation.record(kept.text(), "record") == kept
    for broken in (b"", b"{}", b"[]", b'{"authority": 1}', kept.text().replace(b"swap", b"later"), b"\xff"):
        with pytest.raises(NodeError, match="it is no record of a rotation"):
            rotation.record(broken, "record")
