# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a build would do, for a person, before it is started: layer by layer, why, how much and where.

Pure functions over plain data. Sizes in bytes, times in seconds; both are those of the build before, so they are said
as estimates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .quantities import human

#: What is above the layers that are kept; every build makes it anew.
TOP = "runtime"


def layers(
    now: Sequence[tuple[str, str]],
    before: Mapping[str, str],
    cached: Collection[str],
    told: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return for each layer what a build would do: ``name``, ``action`` (``reuse``, ``build``), ``reason``, estimates.

    ``now`` has name and key of the layers, lowest first; ``before`` the keys of the latest image by name; ``cached``
    the keys that are in the cache; ``told`` what the build before, or the cache, says of a layer: ``seconds``,
    ``size_bytes``.
    """
    start = max((index for index, (_name, key) in enumerate(now) if key in cached), default=-1)
    rows = []
    below = ""
    for index, (name, key) in enumerate(now):
        same = before.get(name) == key
        if index <= start:
            action, reason = "reuse", "unchanged" if same else "was built before with these inputs"
        else:
            action = "build"
            reason = _why(name in before, same, below)
            below = below or name
        about = told.get(name, {})
        rows.append({"name": name, "action": action, "reason": reason, **_estimates(about)})
    rows.append({"name": TOP, "action": "build", "reason": "made in every build", **_estimates(told.get(TOP, {}))})
    return rows


def _why(known: bool, same: bool, below: str) -> str:
    if same:
        return "unchanged, but not in the cache"
    if below:
        return f"stands on {below}"
    return "its inputs changed" if known else "was never built"


def _estimates(about: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(about[key]) for key in ("seconds", "size_bytes") if isinstance(about.get(key), (int, float))}


def duration(seconds: float) -> str:
    """Return a time for a person: ``45 s``, ``3 min 20 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def lines(
    what: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    target: Path,
    log: Path,
    files: Mapping[str, Mapping[str, Any]],
    goes: Sequence[str] = (),
) -> list[str]:
    """Return the plan, a line for each layer and one each for size, time, place and what goes.

    ``what`` says image, version and reason; ``rows`` is what `layers` returns; ``files`` the files of the latest image
    by its manifest; ``goes`` the versions that the build would remove.
    """
    said = [what]
    for row in rows:
        verb = "reused" if row["action"] == "reuse" else "built"
        notes = []
        if row["action"] == "build" and row.get("seconds"):
            notes.append(f"about {duration(row['seconds'])}")
        if row.get("size_bytes"):
            notes.append(human(row["size_bytes"]))
        more = f" ({', '.join(notes)})" if notes else ""
        said.append(f"  layer {row['name']:<8} {verb:<7} {row['reason']}{more}")
    spent = sum(row.get("seconds", 0) for row in rows if row["action"] == "build")
    if spent:
        said.append(f"  time   about {duration(spent)}, by the builds before")
    if files:
        total = sum(int(entry["size_bytes"]) for entry in files.values())
        said.append(f"  size   about {human(total)}, as the latest image has")
    said.append(f"  to     {target}")
    said.append(f"  log    {log}")
    said.extend(f"  goes   {version}" for version in goes)
    return said
