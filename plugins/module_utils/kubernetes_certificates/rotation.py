# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Rotation of an authority as a line of positions along which all hosts move together.

==========  ==========  ===============  ==========================================================
position    signs       believed         what it is
==========  ==========  ===============  ==========================================================
``old``     old         old              nothing has begun
``trust``   old         old, new         everybody believes both
``swap``    new         new, old         everything is issued by the new one
``new``     new         new              the old one is believed by nobody
==========  ==========  ===============  ==========================================================

A host goes one position further, or back, only when no host is two away from where it goes: whoever speaks to whom,
each believes what the other shows. What was interrupted leaves hosts at two neighbouring positions, from where both
directions are possible. From ``new`` nobody goes back: the old key is gone; that is another rotation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..kubernetes.errors import NodeError

POSITIONS = ("old", "trust", "swap", "new")


@dataclass(frozen=True)
class Record:
    """What a host keeps of a rotation: which authority, how far it is, both pins, since when (Unix seconds).

    ``towards`` is where it is on its way to, or where that was interrupted; empty when ``position`` is all of it.
    """

    authority: str
    position: str
    old: str
    new: str
    since: float
    towards: str = ""

    @property
    def positions(self) -> list[str]:
        """Return the position that the host is at, or both that it is between."""
        return [self.position, self.towards] if self.towards else [self.position]

    def text(self) -> bytes:
        """Return it as it is kept."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def record(text: bytes, what: str) -> Record:
    """Return a record as it was kept. Raises NodeError."""
    try:
        found = Record(**json.loads(text))
        if set(found.positions) <= set(POSITIONS) and float(found.since) >= 0:
            return found
    except (TypeError, ValueError):
        pass
    raise NodeError(
        f"{what}: it is no record of a rotation; if none is under way, remove its directory, else write back its backup"
    )


def next_positions(hosts: Mapping[str, Sequence[str]], goal: str) -> list[str]:
    """Return the positions that all hosts go to, one after the other, to reach ``goal``; empty when they are there.

    ``hosts`` has each host's position, or both that it is between. Raises NodeError where hosts are further apart than
    neighbours, and for a way back from where there is none.
    """
    if goal not in POSITIONS:
        raise NodeError(f"position {goal[:40]!r}; allowed: {', '.join(POSITIONS)}")
    if not hosts:
        raise NodeError("there is no host whose certificates could be rotated")
    numbers = {host: {POSITIONS.index(each) for each in at} for host, at in hosts.items()}
    every = set().union(*numbers.values())
    first, last, wanted = min(every), max(every), POSITIONS.index(goal)
    if last - first > 1:
        behind = sorted(host for host, at in numbers.items() if first in at)
        ahead = sorted(host for host, at in numbers.items() if last in at)
        raise NodeError(
            f"{', '.join(behind)} at '{POSITIONS[first]}' and {', '.join(ahead)} at '{POSITIONS[last]}' are further "
            "apart than a rotation leaves hosts; let those that were away leave the cluster and join it again"
        )
    if wanted < last == len(POSITIONS) - 1:
        raise NodeError(
            "the old authority is dropped somewhere already, so there is no way back; finish this rotation, then "
            "rotate again"
        )
    if wanted >= last:
        # A position that only some have reached is reached by all before any goes on.
        return list(POSITIONS[first + 1 : wanted + 1])
    return list(reversed(POSITIONS[wanted:last]))


def signer(position: str) -> str:
    """Return which authority signs at a position, old or new."""
    return "new" if position in ("swap", "new") else "old"


def believed(position: str) -> tuple[str, ...]:
    """Return which authorities are believed at a position; who signs comes first, where kubeadm looks for it."""
    return {"old": ("old",), "trust": ("old", "new"), "swap": ("new", "old"), "new": ("new",)}[position]


def derived(believed_pins: set[str], signers: set[str], old: str, new: str) -> str:
    """Return the position of a host that has no record, such as a node that joined meanwhile.

    ``believed_pins`` are those of the authorities that it believes, ``signers`` of those that issued what it shows.
    Raises NodeError for a host of another cluster.
    """
    both = believed_pins & {old, new}
    if not both:
        raise NodeError(
            f"it believes neither the old authority ({old}) nor the new one ({new}): it is a node of another cluster, "
            "or was away for a whole rotation; let it leave and join again"
        )
    if both == {old}:
        return "old"
    if both == {new}:
        return "new"
    return "swap" if signers and signers <= {new} else "trust"
