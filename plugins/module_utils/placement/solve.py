# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Place many replicas: the large and particular first; what is left over makes others step aside; small cases exactly.

What a plan is worth: replicas of a higher priority count before any of a lower one; among equals each counts its
accelerators, or one. Every search ends after a fixed number of attempts: the same input gives the same plan anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .demand import REQUIRED, Wish
from .fleet import Fleet, Placed

Item = tuple[Wish, int]
_ATTEMPTS_ASIDE = 3000
_ATTEMPTS_EXACT = 12000
_EXACT_ITEMS, _EXACT_HOSTS = 12, 8


def in_order(items: Iterable[Item]) -> list[Item]:
    """Return the replicas in the order to place them."""
    return sorted(items, key=_order)


def _order(item: Item) -> tuple[object, ...]:
    wish, replica = item
    demand = wish.demand
    return (
        -wish.priority,
        not demand.devices,
        not wish.hosts,
        demand.numa_node is None,
        -demand.accelerators,
        demand.accelerator_type is None,
        -demand.accelerator_memory_mib,
        -demand.memory_mib,
        -demand.cpu,
        replica,
        wish.name,
    )


def place_all(fleet: Fleet, items: Iterable[Item], movable: Iterable[tuple[str, int]] = ()) -> list[Item]:
    """Place what fits of ``items`` and return what does not.

    To make room, replicas of ``items`` step aside, and those of ``movable``; nothing else does.
    """
    ordered = in_order(items)
    ours = {(wish.name, replica) for wish, replica in ordered} | set(movable)
    left = [item for item in ordered if fleet.put(*item) is None]
    if not left:
        return []
    if len(ordered) <= _EXACT_ITEMS and len(fleet.states) <= _EXACT_HOSTS:
        left = retry(fleet, _exactly(fleet, ordered, left))
    return left and _step_aside(fleet, left, ours)


def retry(fleet: Fleet, left: Iterable[Item]) -> list[Item]:
    """Place what fits of leftovers now, after others have found their places; return what does not."""
    return [item for item in left if fleet.put(*item) is None]


def _is_particular(wish: Wish) -> bool:
    """Return whether it matters to the runtime what else is on a host."""
    return bool(wish.anti_affinity == REQUIRED or wish.ports)


def _step_aside(fleet: Fleet, left: Sequence[Item], ours: set[tuple[str, int]]) -> list[Item]:
    """Place leftovers where one or two of ``ours`` can go elsewhere instead; return what still does not fit."""
    attempts, hopeless, rest = _ATTEMPTS_ASIDE, set(), []
    for wish, replica in left:
        # What does not fit for one does not for another that asks for the same, unless names decide.
        key = (wish.demand, wish.hosts, wish.name if _is_particular(wish) else "")
        if key in hopeless or attempts <= 0:
            rest.append((wish, replica))
            continue
        done, attempts = _make_room(fleet, (wish, replica), ours, attempts)
        if not done:
            hopeless.add(key)
            rest.append((wish, replica))
    return retry(fleet, rest)


def _make_room(fleet: Fleet, item: Item, ours: set[tuple[str, int]], attempts: int) -> tuple[bool, int]:
    wish = item[0]
    by_host: dict[int, list[Placed]] = {}
    for key in sorted(ours):
        placed = fleet.placed.get(key)
        if placed is not None and placed.wish.priority <= wish.priority:
            by_host.setdefault(placed.host, []).append(placed)
    for alike in fleet.alike():
        host = alike[0]
        movable = by_host.get(host, [])
        singles = [(one,) for one in movable]
        pairs = [(one, two) for index, one in enumerate(movable) for two in movable[index + 1 :]]
        for leaving in [*singles, *pairs]:
            if attempts <= 0:
                return False, 0
            attempts -= 1
            if _swap(fleet, item, host, leaving):
                return True, attempts
    return False, attempts


def _swap(fleet: Fleet, item: Item, host: int, leaving: Sequence[Placed]) -> bool:
    """Let ``leaving`` go elsewhere and the item take their place, or leave everything as it was."""
    for placed in leaving:
        fleet.remove(placed)
    came = fleet.try_on(*item, host)
    moved: list[Placed] = []
    if came is not None:
        for placed in leaving:
            again = fleet.put(placed.wish, placed.replica)
            if again is None:
                break
            moved.append(again)
        if len(moved) == len(leaving):
            return True
    for placed in [*moved, *([came] if came else [])]:
        fleet.remove(placed)
    for placed in leaving:
        fleet.place(placed)
    return False


def _exactly(fleet: Fleet, ordered: list[Item], left: list[Item]) -> list[Item]:
    """Search all ways to place a few replicas on a few hosts; return what the best one leaves over."""
    worth = _worths(ordered)
    items = sorted(ordered, key=lambda item: (item[0].demand.accelerator_type is None, _order(item)))
    search = _Search(fleet, items, [worth[item] for item in items])
    first = [fleet.placed[(wish.name, replica)] for wish, replica in ordered if (wish, replica) not in left]
    for placed in first:
        fleet.remove(placed)
    search.best = sum(worth[(placed.wish, placed.replica)] for placed in first)
    search.best_placed = first
    search.run(0, 0)
    for placed in search.best_placed:
        fleet.place(placed)
    return [item for item in ordered if (item[0].name, item[1]) not in fleet.placed]


def _worths(items: list[Item]) -> dict[Item, int]:
    """Return what placing each is worth: one accelerator of a priority outweighs everything below it."""
    base = 1 + sum(wish.demand.slots for wish, _replica in items)
    ranks = {priority: rank for rank, priority in enumerate(sorted({wish.priority for wish, _replica in items}))}
    return {item: item[0].demand.slots * base ** ranks[item[0].priority] for item in items}


class _Search:
    """Depth first: each item on one host of each kind, or left out; cut off where the best is out of reach."""

    def __init__(self, fleet: Fleet, items: list[Item], worth: list[int]) -> None:
        self.fleet, self.items, self.worth = fleet, items, worth
        self.rest = [sum(worth[index:]) for index in range(len(worth) + 1)]
        self.best = 0
        self.best_placed: list[Placed] = []
        self.attempts = _ATTEMPTS_EXACT
        self.placed: list[Placed] = []

    def run(self, index: int, worth: int) -> None:
        """Go on from item ``index`` with ``worth`` placed so far."""
        if worth > self.best:
            self.best, self.best_placed = worth, list(self.placed)
        if index == len(self.items) or worth + self.rest[index] <= self.best:
            return
        wish, replica = self.items[index]
        for host in self._hosts():
            if self.attempts <= 0:
                return
            self.attempts -= 1
            placed = self.fleet.try_on(wish, replica, host)
            if placed is None:
                continue
            self.placed.append(placed)
            self.run(index + 1, worth + self.worth[index])
            self.placed.pop()
            self.fleet.remove(placed)
        self.run(index + 1, worth)

    def _hosts(self) -> list[int]:
        """Return the hosts to try; of those that are alike one, where nothing tells them apart."""
        groups = self.fleet.alike()
        particular = any(each.hosts or each.demand.devices or _is_particular(each) for each, _number in self.items)
        return [host for hosts in groups for host in (hosts if particular else hosts[:1])]
