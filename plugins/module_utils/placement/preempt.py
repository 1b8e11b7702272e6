# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Room for a higher priority: replicas of lower ones leave, as few and as low as can be, and only if that was asked."""

from __future__ import annotations

from collections.abc import Sequence

from .demand import Wish
from .fleet import Fleet, Placed
from .records import instance

Item = tuple[Wish, int]
_HOSTS_TRIED = 64


def preempt(fleet: Fleet, left: Sequence[Item]) -> tuple[list[Item], dict[tuple[str, int], str]]:
    """Place ``left`` where replicas of lower priority can leave.

    Returns what has no place in the end, those who left among them, and for everyone who left whom it made room for.
    """
    rest: list[Item] = []
    gone: list[Placed] = []
    gave_way: dict[tuple[str, int], str] = {}
    for wish, replica in left:
        leaving = _cheapest(fleet, wish, replica)
        if leaving is None:
            rest.append((wish, replica))
            continue
        for placed in leaving:
            gave_way[placed.key] = instance(wish.name, replica)
        gone += leaving
    for placed in sorted(gone, key=lambda each: (-each.wish.priority, each.key)):
        if fleet.put(placed.wish, placed.replica) is None:
            rest.append((placed.wish, placed.replica))
    return rest, gave_way


def _cheapest(fleet: Fleet, wish: Wish, replica: int) -> list[Placed] | None:
    """Place the replica on the host where the least must leave, and return who left; None when no host will do."""
    lower: dict[int, list[Placed]] = {}
    for key in sorted(fleet.placed):
        placed = fleet.placed[key]
        if placed.wish.priority < wish.priority:
            lower.setdefault(placed.host, []).append(placed)
    best: tuple[tuple[int, int, int], int, list[Placed]] | None = None
    for host, victims in sorted(lower.items())[:_HOSTS_TRIED]:
        leaving = _who_must_leave(fleet, wish, replica, host, victims)
        if leaving is not None:
            rank = max(each.wish.priority for each in leaving), sum(each.wish.demand.slots for each in leaving), host
            if best is None or rank < best[0]:
                best = rank, host, leaving
    if best is None:
        return None
    for placed in best[2]:
        fleet.remove(placed)
    fleet.try_on(wish, replica, best[1])
    return best[2]


def _who_must_leave(
    fleet: Fleet, wish: Wish, replica: int, host: int, victims: Sequence[Placed]
) -> list[Placed] | None:
    """Return a smallest set in the order of priority that makes room on the host; everything is as before then."""
    removed: list[Placed] = []
    fits = False
    for placed in sorted(victims, key=lambda each: (each.wish.priority, each.wish.demand.slots, each.key)):
        fleet.remove(placed)
        removed.append(placed)
        fits = _fits(fleet, wish, replica, host)
        if fits:
            break
    # The last one may have sufficed alone: whoever need not leave comes back, the highest priority first.
    for placed in reversed(removed[:-1] if fits else removed):
        fleet.place(placed)
        if fits and not _fits(fleet, wish, replica, host):
            fleet.remove(placed)
    if not fits:
        return None
    leaving = [placed for placed in removed if placed.key not in fleet.placed]
    for placed in leaving:
        fleet.place(placed)
    return leaving


def _fits(fleet: Fleet, wish: Wish, replica: int, host: int) -> bool:
    placed = fleet.try_on(wish, replica, host)
    if placed is not None:
        fleet.remove(placed)
    return placed is not None
