# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""All hosts as they fill, and the best host for one replica.

Hosts with the same signature are alike, so a replica looks at one of each and not at every host: a thousand hosts of
one shape are a few dozen signatures at any time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .capacity import Capacity
from .demand import NONE, REQUIRED, SPREAD, Demand, Wish
from .fit import fit
from .shape import Shape, shape_of
from .state import Grant, Share, Signature, State

Score = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica on a host. ``host`` is a position in Fleet.states."""

    wish: Wish
    replica: int
    host: int
    grant: Grant

    @property
    def key(self) -> tuple[str, int]:
        """Return which replica it is."""
        return self.wish.name, self.replica


class Fleet:
    """The hosts by name, what is free on each, and what is placed."""

    def __init__(self, capacities: Iterable[Capacity], closed: Iterable[str] = ()) -> None:
        """Begin with empty hosts; ``closed`` ones take nothing new."""
        shapes: dict[Shape, int] = {}
        self.states: list[State] = []
        self.placed: dict[tuple[str, int], Placed] = {}
        self.position: dict[str, int] = {}
        # Signatures as numbers: they are compared and looked up millions of times.
        self._number: dict[Signature, int] = {}
        self._signature: list[int] = []
        self._alike: dict[int, list[int]] = {}
        self._on: dict[str, dict[int, int]] = {}
        self._ports: dict[int, dict[int, int]] = {}
        self._fits: dict[Demand, dict[int, tuple[Share, Score] | None]] = {}
        self._closed = frozenset(closed)
        for capacity in sorted(capacities, key=lambda each: each.host):
            shape = shape_of(capacity)
            state = State(capacity, shape, shapes.setdefault(shape, len(shapes)))
            self.position[capacity.host] = len(self.states)
            self.states.append(state)
            self._signature.append(self._number_of(state))
            if capacity.host not in self._closed:
                self._alike.setdefault(self._signature[-1], []).append(len(self.states) - 1)

    def name(self, host: int) -> str:
        """Return a host's name."""
        return self.states[host].capacity.host

    def alike(self) -> list[tuple[int, ...]]:
        """Return the open hosts as they are now, those of one signature together."""
        return sorted(tuple(hosts) for hosts in self._alike.values())

    def closed(self) -> list[tuple[int, ...]]:
        """Return the hosts that take nothing new, each by itself."""
        return [(self.position[name],) for name in sorted(self._closed & self.position.keys())]

    def runs_on(self, wish: Wish, host: int) -> bool:
        """Return whether a replica of the runtime is on the host."""
        return host in self._on.get(wish.name, ())

    def place(self, placed: Placed) -> None:
        """Put a replica on its host; what it is granted must be free."""
        self._change(placed.host, placed.grant, True)
        self.placed[placed.key] = placed
        for on in self._books(placed.wish):
            on[placed.host] = on.get(placed.host, 0) + 1

    def remove(self, placed: Placed) -> None:
        """Take a replica off its host."""
        self._change(placed.host, placed.grant, False)
        del self.placed[placed.key]
        for on in self._books(placed.wish):
            on[placed.host] -= 1
            if not on[placed.host]:
                del on[placed.host]

    def _books(self, wish: Wish) -> list[dict[int, int]]:
        """Return where the runtime and its ports are counted: replicas by host."""
        return [
            self._on.setdefault(wish.name, {}),
            *(self._ports.setdefault(port, {}) for port in sorted(wish.ports)),
        ]

    def why_not(self, wish: Wish, host: int) -> str | None:
        """Return why the runtime may not be on the host, room or not, as the end of "the host ..."; else None."""
        name = self.name(host)
        if name in self._closed:
            return "takes nothing new: it is being drained"
        if wish.hosts and name not in wish.hosts:
            return "is not among its spec.placement.hosts"
        if wish.anti_affinity == REQUIRED and self.runs_on(wish, host):
            return "has a replica of it already (anti-affinity required)"
        for port in sorted(wish.ports):
            if host in self._ports.get(port, ()):
                return f"has its port {port} taken by another replica's spec.network.forward"
        return None

    def share(self, demand: Demand, host: int) -> tuple[Share, Score] | None:
        """Return the best share of a host for the demand and how good it is; None when it does not fit."""
        state = self.states[host]
        if demand.devices:
            # Addresses are no part of a signature.
            found = fit(state, demand)
            return None if found is None else (found, _score(state, demand, found))
        known = self._fits.setdefault(demand, {})
        number = self._signature[host]
        if number not in known:
            found = fit(state, demand)
            known[number] = None if found is None else (found, _score(state, demand, found))
        return known[number]

    def try_on(self, wish: Wish, replica: int, host: int) -> Placed | None:
        """Place the replica on this host, or return None when it may not or does not fit there."""
        if self.why_not(wish, host) is not None:
            return None
        found = self.share(wish.demand, host)
        if found is None:
            return None
        placed = Placed(wish, replica, host, self.states[host].grant(found[0]))
        self.place(placed)
        return placed

    def put(self, wish: Wish, replica: int) -> Placed | None:
        """Place the replica on the best host; None when it fits on none."""
        best: tuple[bool, Score, int] | None = None
        for crowded, score, host in self._candidates(wish):
            if best is None or (crowded, score, host) < best:
                best = (crowded, score, host)
        return None if best is None else self.try_on(wish, replica, best[2])

    def _candidates(self, wish: Wish) -> Iterator[tuple[bool, Score, int]]:
        """Yield hosts that would do, and whether a replica is there already: one of each kind, if that is enough."""
        demand, on = wish.demand, self._on.get(wish.name, {})
        avoided = on if wish.anti_affinity != NONE else {}
        if wish.hosts or demand.devices:
            for host, state in enumerate(self.states):
                if (not wish.hosts or state.capacity.host in wish.hosts) and self.why_not(wish, host) is None:
                    found = self.share(demand, host)
                    if found is not None:
                        yield host in avoided, found[1], host
            return
        barred = [self._ports.get(port, {}) for port in wish.ports]
        if wish.anti_affinity == REQUIRED:
            barred.append(on)
        barred = [each for each in barred if each]
        known = self._fits.setdefault(demand, {})
        for number, hosts in self._alike.items():
            found = known[number] if number in known else self.share(demand, hosts[0])
            if found is None:
                continue
            first = _first(hosts, barred, avoided)
            if first is not None:
                yield first[0], found[1], first[1]

    def _change(self, host: int, grant: Grant, take: bool) -> None:
        state = self.states[host]
        if take:
            state.take(grant)
        else:
            state.put_back(grant)
        old, new = self._signature[host], self._number_of(state)
        self._signature[host] = new
        if state.capacity.host in self._closed or old == new:
            return
        hosts = self._alike[old]
        del hosts[bisect_left(hosts, host)]
        if not hosts:
            del self._alike[old]
        insort(self._alike.setdefault(new, []), host)

    def _number_of(self, state: State) -> int:
        return self._number.setdefault(state.signature(), len(self._number))


def _first(
    hosts: Iterable[int], barred: Sequence[Mapping[int, int]], avoided: Mapping[int, int]
) -> tuple[bool, int] | None:
    """Return the first host that is neither barred nor avoided, else the first avoided one, and which of the two."""
    second: int | None = None
    for host in hosts:
        if barred and any(host in each for each in barred):
            continue
        if host not in avoided:
            return False, host
        if second is None:
            second = host
    return None if second is None else (True, second)


def _score(state: State, demand: Demand, share: Share) -> Score:
    """Return how good a place is, lower is better.

    A host with accelerators is not for a replica without any; then near together, then no better accelerators than
    asked for, then the fullest host (pack) or the emptiest (spread).
    """
    shape = state.shape
    wasted = shape.accelerators if not demand.accelerators and not share.units else 0
    free_cores = sum(map(len, state.cores))
    if demand.strategy == SPREAD:
        used_cores = 1000 - 1000 * free_cores // max(1, shape.cores)
        used = 1000 - 1000 * state.free_accelerators // max(1, shape.accelerators)
        return wasted, share.tier, share.excess_mib, used if demand.accelerators else 0, used_cores
    return wasted, share.tier, share.excess_mib, state.free_accelerators, free_cores, sum(state.memory)
