# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan: what runs stays, what is asked for is placed, and every difference has its reason.

The order of work: pin what runs; place anew what must move (its manifest changed, its host or device is gone, its host
is drained, or somebody asked); where somebody asked, divide hosts again; add what is missing; with a split, go on up to
maxReplicas.
"""

from __future__ import annotations

import gc
import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from .capacity import Capacity, from_dict
from .data import DataError
from .demand import SPLIT, Options, Wish, unknown, wanted, wishes_of
from .fit import fit
from .fleet import Fleet, Placed
from .grow import grow
from .preempt import preempt
from .records import Record, changed, grant_of, records_of
from .result import Outcome, plan_of
from .solve import in_order, place_all, retry

Key = tuple[str, int]


def plan_data(
    capacities: Iterable[Any], runtimes: Iterable[Mapping[str, Any]], current: Any, options: Options
) -> dict[str, Any]:
    """Return the plan as `make_plan` does; ``capacities`` are results of module host_capacity. Raises DataError."""
    with _collector_off():
        return make_plan([from_dict(each) for each in capacities], runtimes, current, options)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep Python from walking the whole fleet again and again in search of cycles, which nothing here makes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def make_plan(
    capacities: Iterable[Capacity], runtimes: Iterable[Mapping[str, Any]], current: Any, options: Options
) -> dict[str, Any]:
    """Return the plan (``schemas/plan-v1.schema.json``) for the hosts, the manifests and the plan before, or None.

    The result depends on nothing else, and not on the order of hosts and runtimes. Raises DataError, one line.
    """
    hosts = sorted(capacities, key=lambda each: each.host)
    for one, other in pairwise(hosts):
        if one.host == other.host:
            raise DataError(f"capacities: host {one.host} is there twice")
    known = {each.host for each in hosts} | options.absent
    for name in sorted(options.drain - known):
        raise DataError(f"drain: {unknown('host', name, known)}")
    planner = _Planner(hosts, wishes_of(runtimes, options), records_of(current), options)
    return plan_of(planner.run(), options)


class _Planner:
    """One plan in the making."""

    def __init__(self, hosts: list[Capacity], wishes: list[Wish], records: list[Record], options: Options) -> None:
        self.wishes = {wish.name: wish for wish in wishes}
        self.options = options
        self.out = Outcome(Fleet(hosts, options.drain), self.wishes, {record.key: record for record in records})
        self.fleet = self.out.fleet
        self.asked_anew: dict[Key, Placed] = {}
        self._unread = options.absent - self.fleet.position.keys()
        # Numbers of replicas that leave as soon as their hosts can be read, by runtime.
        self.taken: dict[str, set[int]] = {}

    def run(self) -> Outcome:
        """Return what came of it."""
        keys = self._wanted()
        self._pin(keys)
        self._place_anew()
        if self.options.resize:
            self._resize()
        missing = sorted(keys - self.fleet.placed.keys() - self.out.left_alone.keys())
        before = set(self.fleet.placed)
        movable = {key for key in before if key[0] in self.options.move}
        left = place_all(self.fleet, [(self.wishes[name], number) for name, number in missing], movable)
        if self.options.preempt and left:
            left, self.out.gave_way = preempt(self.fleet, left)
            left = retry(self.fleet, left)
        self.out.left = left
        if self.options.accelerators == SPLIT:
            self._fill(keys)
        fresh = (self.fleet.placed.keys() - before) | self.out.resized
        grow(self.fleet, fresh & self.fleet.placed.keys(), self.options)
        return self.out

    def _wanted(self) -> set[Key]:
        """Return the replicas to run: those that run, lowest numbers first, then the lowest free numbers."""
        known: dict[str, list[Record]] = {}
        for _key, record in sorted(self.out.records.items()):
            known.setdefault(record.runtime, []).append(record)
        keys: set[Key] = set()
        for name, wish in self.wishes.items():
            mine = known.pop(name, [])
            have = [record.replica for record in mine if not record.leaving]
            count = self.out.wanted[name] = wanted(wish, len(have), self.options)
            numbers = have[:count]
            self._let_go([record for record in mine if record.replica not in numbers])
            while len(numbers) < count:
                numbers.append(_lowest_free({*numbers, *self.taken.get(name, ())}))
            keys.update((name, number) for number in numbers)
        for records in known.values():
            self._let_go(records)
        return keys

    def _let_go(self, records: list[Record]) -> None:
        """Note which of the replicas that nobody wants stay in the plan, because their hosts cannot be told now."""
        for record in records:
            if record.host in self._unread:
                self.taken.setdefault(record.runtime, set()).add(record.replica)
                self.out.leaving.add(record.key)
                self.out.left_alone[record.key] = record

    def _pin(self, keys: set[Key]) -> None:
        """Give what runs its place again; note what cannot keep it (``reasons``) or may not (``asked_anew``)."""
        kept = [key for key in self.out.records if key in keys]
        for key in sorted(kept, key=lambda key: (-self.wishes[key[0]].priority, key)):
            record, wish = self.out.records[key], self.wishes[key[0]]
            host = self.fleet.position.get(record.host)
            if record.host in self._unread:
                self.out.left_alone[key] = record
                self.out.reasons[key] = f"{record.host} could not be read; left as it is"
                continue
            if host is None:
                self.out.reasons[key] = f"host {record.host} is gone"
                continue
            grant = grant_of(record, self.fleet.states[host])
            trouble = grant if isinstance(grant, str) else self.fleet.states[host].holds(grant)
            if isinstance(grant, str) or trouble is not None:
                self.out.reasons[key] = f"{record.host} {trouble}"
                continue
            placed = Placed(wish, record.replica, host, grant)
            self.fleet.place(placed)
            self.out.pinned[key] = placed
            reason = changed(record, wish)
            if record.host in self.options.drain:
                reason = f"{record.host} is drained"
            elif reason is None and wish.name in self.options.move:
                reason = "asked to move"
            self.out.reasons[key] = reason or "runs"
            if reason is not None:
                self.asked_anew[key] = placed

    def _place_anew(self) -> None:
        """Give another place: on the same host first, where nothing speaks against it; none is lost when none fits."""
        for key, placed in self.asked_anew.items():
            wish = self.wishes[key[0]]
            self.fleet.remove(placed)
            stays = self.fleet.name(placed.host) not in self.options.drain and wish.name not in self.options.move
            again = self.fleet.try_on(wish, key[1], placed.host) if stays else None
            again = again or self.fleet.put(wish, key[1])
            if again is None:
                self.fleet.place(placed)
                self.out.refused[key] = wish
            elif again.host == placed.host and wish.name in self.options.move:
                # It would only get other numbers of the same.
                self.fleet.remove(again)
                self.fleet.place(placed)
                self.out.reasons[key] = "asked to move; its place is the best"

    def _resize(self) -> None:
        """Divide CPUs and memory of each host anew among what runs there; hosts and devices stay.

        A host where that does not work out, because its replicas were placed in another way, stays as it is.
        """
        by_host: dict[int, list[Placed]] = {}
        for key in self.out.pinned.keys() & self.fleet.placed.keys():
            if self.fleet.placed[key] is self.out.pinned[key] and key not in self.asked_anew:
                by_host.setdefault(self.out.pinned[key].host, []).append(self.out.pinned[key])
        for host, mine in sorted(by_host.items()):
            for placed in mine:
                self.fleet.remove(placed)
            again = []
            for wish, replica in in_order((placed.wish, placed.replica) for placed in mine):
                devices = self.out.records[wish.name, replica].devices
                share = fit(self.fleet.states[host], replace(wish.demand, devices=devices))
                if share is None:
                    break
                again.append(Placed(wish, replica, host, self.fleet.states[host].grant(share)))
                self.fleet.place(again[-1])
            if len(again) == len(mine):
                self.out.resized |= {placed.key for placed in mine}
                continue
            for placed in again:
                self.fleet.remove(placed)
            for placed in mine:
                self.fleet.place(placed)

    def _fill(self, keys: set[Key]) -> None:
        """Add replicas up to maxReplicas while accelerators are free, to the runtime that has the fewest."""
        numbers: dict[str, list[int]] = {}
        for name, number in keys:
            numbers.setdefault(name, []).append(number)
        stuck = {wish.name for wish, _replica in self.out.left}
        heap = [
            (-wish.priority, len(numbers.get(name, ())), name)
            for name, wish in self.wishes.items()
            if wish.demand.accelerators and name not in self.options.replicas and name not in stuck
        ]
        heapq.heapify(heap)
        while heap:
            rank, count, name = heapq.heappop(heap)
            mine = numbers.setdefault(name, [])
            if count >= self.wishes[name].most:
                continue
            number = _lowest_free({*mine, *self.taken.get(name, ())})
            if self.fleet.put(self.wishes[name], number) is None:
                continue
            mine.append(number)
            self.out.extra.add((name, number))
            heapq.heappush(heap, (rank, count + 1, name))


def _lowest_free(numbers: Collection[int]) -> int:
    return next(number for number in range(len(numbers) + 1) if number not in numbers)
