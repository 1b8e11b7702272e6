# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which replicas a host has to let go because they left the plan, and when.

Pure functions over names. A host remembers in a file what plans placed on it, so that what nobody planned is never
touched, and what an interrupted run left behind is still known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: How far a placed replica has come on its host.
CONFIGURED, SERVED = "configured", "served"
NOW, AFTER, KEPT = "now", "after", "kept"


def placed_here(placements: Iterable[Mapping[str, Any]], host: str) -> list[str]:
    """Return the replicas that the plan's ``placements`` have on ``host``, sorted."""
    return sorted(str(each["id"]) for each in placements if each["host"] == host and not each.get("leaving"))


def unsettled(placements: Iterable[Mapping[str, Any]], known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the replicas that never served where the plan has them, and those that are where it has them no longer.

    ``known`` is what each host remembers, by host; hosts that are not in it are left out. The result is sorted.
    """
    placements = list(placements)
    found: set[str] = set()
    for host, states in known.items():
        mine = set(placed_here(placements, host))
        found |= {name for name in mine if states.get(name) != SERVED} | (states.keys() - mine)
    return sorted(found)


def leavers(
    known: Mapping[str, str],
    placements: Iterable[Mapping[str, Any]],
    host: str,
    reached: Iterable[str],
    names: Iterable[str] | None = None,
) -> dict[str, list[str]]:
    """Return the replicas in ``known`` (name to CONFIGURED or SERVED) that the plan no longer has on ``host``, sorted.

    ``now``: before anything starts, because the host has a replica that never served there, and it may need the room.
    ``after``: when all others serve, so that one that moved goes on serving until then. ``kept``: it moved to a host
    that is not among ``reached`` (those that have done everything so far), so for the time being it serves here.
    ``names`` restricts all of it to these.
    """
    placements, reached = list(placements), set(reached)
    elsewhere: dict[str, set[str]] = {}
    for placement in placements:
        if not placement.get("leaving"):
            elsewhere.setdefault(str(placement["id"]), set()).add(str(placement["host"]))
    mine = set(placed_here(placements, host))
    gone = known.keys() - mine if names is None else (known.keys() - mine) & set(names)
    when = AFTER if all(known.get(name) == SERVED for name in mine) else NOW
    result: dict[str, list[str]] = {NOW: [], AFTER: [], KEPT: []}
    for name in sorted(gone):
        waits = when == AFTER and name in elsewhere and not elsewhere[name] & reached
        result[KEPT if waits else when].append(name)
    return result
