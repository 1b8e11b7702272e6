# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan for people: what changes, what does not fit and why, how full the hosts are; and the text of its file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SIGNS = {"add": "+", "keep": "=", "move": "~", "remove": "-"}
_HEAD = ("", "replica", "host", "accelerators", "cpus", "memory", "why")
_HOSTS_SHOWN = 32


def ranges(numbers: Iterable[int]) -> str:
    """Return CPU numbers as the kernel writes them: 0-3,8."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def memory(mib: int) -> str:
    """Return MiB for a person: 64Gi where it is whole, else 1536Mi."""
    return f"{mib // 1024}Gi" if mib and mib % 1024 == 0 else f"{mib}Mi"


def lines(plan: Mapping[str, Any], keep: bool = True) -> list[str]:
    """Return the plan as a table and sentences; ``keep`` lists what stays as it is, too."""
    placements = {each["id"]: each for each in plan["placements"]}
    changes = [each for each in plan["changes"] if keep or each["action"] != "keep"]
    rows = [_row(change, placements.get(change["id"])) for change in changes]
    text = _table([_HEAD, *rows]) if rows else []
    text.append(sentence(plan))
    for each in plan["unplaced"]:
        numbers = ", ".join(map(str, each["replicas"]))
        text.append(f"{each['runtime']} does not fit (replica {numbers}): {each['reason']}")
        if each["nearest"]:
            text.append(f"    {each['nearest']['text']}")
    if 0 < len(plan["hosts"]) <= _HOSTS_SHOWN:
        text += ["", *_table([("host", "accelerators", "cpus", "memory", "replicas"), *_hosts(plan["hosts"])])]
    return text


def sentence(plan: Mapping[str, Any]) -> str:
    """Return the summary: how many replicas are added, kept, moved, removed, and how many do not fit."""
    counts = plan["summary"]
    words = (("add", "to add"), ("move", "to move"), ("remove", "to remove"), ("keep", "as they are"))
    parts = [f"{counts[action]} {word}" for action, word in words if counts[action]]
    if counts["unplaced"]:
        parts.append(f"{counts['unplaced']} that do not fit")
    return f"replicas: {', '.join(parts) or 'none'}"


def _row(change: Mapping[str, Any], placement: Mapping[str, Any] | None) -> tuple[str, ...]:
    start, end = change["from"], change["to"]
    where = f"{start} -> {end}" if start and end and start != end else end or start or ""
    what = ("", "", "") if placement is None else granted(placement)
    return _SIGNS[change["action"]], change["id"], where, *what, change["reason"]


def granted(placement: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return accelerators, CPUs and memory of a placement for a person."""
    devices = placement["accelerators"]
    kinds = sorted({each["type"] for each in devices})
    # The domain is the same on almost every machine.
    addresses = " ".join(each["bdf"].removeprefix("0000:") for each in devices)
    accelerators = f"{len(devices)} x {'/'.join(kinds)} {addresses}" if devices else " ".join(placement["devices"])
    nodes = ",".join(str(part["node"]) for part in placement["memory"])
    return (
        accelerators or "-",
        f"{placement['cpu_count']}: {ranges(placement['cpus'])}",
        f"{memory(placement['memory_mib'])} node {nodes}",
    )


def _hosts(hosts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{each['accelerators_used']}/{each['accelerators']}",
            f"{each['cpus_used']}/{each['cpus']}",
            f"{memory(each['memory_mib_used'])}/{memory(each['memory_mib'])}",
            str(each["replicas"]),
        )
        for name, each in sorted(hosts.items())
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def text(plan: Mapping[str, Any]) -> str:
    """Return the plan's file: JSON with one placement, change or host a line, so that files can be compared."""
    parts = []
    for key in sorted(plan):
        value = plan[key]
        if isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(each, sort_keys=True)}" for each in value)
            parts.append(f'"{key}": [\n{inner}\n]')
        elif key == "hosts" and value:
            inner = ",\n".join(
                f"  {json.dumps(name)}: {json.dumps(value[name], sort_keys=True)}" for name in sorted(value)
            )
            parts.append(f'"{key}": {{\n{inner}\n}}')
        else:
            parts.append(f'"{key}": {json.dumps(value, sort_keys=True)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def outline(plan: Mapping[str, Any] | None) -> str:
    """Return one line for each placement, for --diff."""
    if plan is None:
        return ""
    return "".join(f"{each['id']} on {each['host']}: {'; '.join(granted(each))}\n" for each in plan["placements"])
