# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The host's NUMA nodes, PCIe tree and IOMMU groups as one inline SVG, readable without colour and without scripts.

One panel for each NUMA node. In it one row for each PCI function, bridges as plain lines of the tree, endpoints as
boxes; at the right the IOMMU group of each. A bracket joins the rows of a group that several endpoints share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks.text import printable

_ROW, _INDENT, _WIDTH, _HEAD, _GAP = 26, 18, 640, 44, 18
_GROUP_X = 520  # where a row's group is written
_CHARACTER = 6.7  # width of one character of the row's font, pixels
_BOXES = {"accelerator": "gpu", "switch": "fabric"}

STYLE = """
.topology text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:currentColor}
.topology .title{font-size:12px;font-weight:bold}
.topology .panel{fill:none;stroke:currentColor;stroke-opacity:.45}
.topology .wire{fill:none;stroke:#888}
.topology .box{fill:none;stroke:currentColor;stroke-opacity:.6}
.topology .gpu{stroke-width:2.5;stroke-opacity:1}
.topology .fabric{stroke-width:1.5;stroke-dasharray:6 2;stroke-opacity:1}
.topology .held{stroke-dasharray:2 2}
.topology .bracket{fill:none;stroke:currentColor;stroke-width:3}
"""


@dataclass(frozen=True)
class _Row:
    """One PCI function of a panel: its number from the top, its depth in the tree, and its parent's row."""

    number: int
    depth: int
    parent: int | None
    device: dict[str, Any]

    @property
    def middle(self) -> float:
        return _HEAD + self.number * _ROW + _ROW / 2

    @property
    def left(self) -> float:
        return 14 + self.depth * _INDENT


def _rows(trees: list[dict[str, Any]]) -> list[_Row]:
    """Return the trees' functions depth first."""
    rows: list[_Row] = []

    def walk(device: dict[str, Any], depth: int, parent: int | None) -> None:
        number = len(rows)
        rows.append(_Row(number, depth, parent, device))
        for child in device["children"]:
            walk(child, depth + 1, number)

    for tree in trees:
        walk(tree, 0, None)
    return rows


def _text(x: float, y: float, text: Any, kind: str = "") -> str:
    cls = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{cls}>{escape(printable(text))}</text>'


def _row(row: _Row, rows: list[_Row], shared: set[str]) -> Iterator[str]:
    device, y = row.device, row.middle
    if row.parent is not None:
        above = rows[row.parent]
        x = above.left + 5
        yield f'<path class="wire" d="M{x:g} {above.middle + 8:g}V{y:g}H{row.left:g}"/>'
    label = f"{device['bdf']} {device['name']}"
    detail = " ".join(str(part) for part in (device["driver"] and f"[{device['driver']}]", device["link"]) if part)
    room = int((_GROUP_X - row.left - 12) / _CHARACTER)
    text = f"{label} {detail}".strip()
    text = text if len(text) <= room else f"{text[: room - 1]}…"
    if device["kind"] != "bridge":
        kind = _BOXES.get(device["kind"], "held" if device["kind"] == "other" else "")
        yield (
            f'<rect class="box {kind}" x="{row.left:g}" y="{y - 10:g}" width="{_GROUP_X - row.left - 8:g}" '
            'height="20" rx="3"/>'
        )
    yield _text(row.left + 6, y + 4, text)
    if device["group"] is not None:
        mark = " shared" if device["group"] in shared and device["kind"] != "bridge" else ""
        yield _text(_GROUP_X, y + 4, f"group {device['group']}{mark}")


def _brackets(rows: list[_Row], shared: set[str]) -> Iterator[str]:
    for group in sorted(shared):
        members = [row for row in rows if row.device["group"] == group]
        if len(members) > 1:
            top, bottom = members[0].middle - 8, members[-1].middle + 8
            yield f'<path class="bracket" d="M{_WIDTH - 16} {top:g}h6V{bottom:g}h-6"/>'


def _panel(node: dict[str, Any], shared: set[str], x: float, y: float) -> tuple[str, float]:
    """Return one NUMA node's panel at ``x``, ``y`` and its height in pixels."""
    rows = _rows(node["roots"])
    height = _HEAD + max(len(rows), 1) * _ROW + 10
    parts = [f'<rect class="panel" width="{_WIDTH}" height="{height}" rx="6"/>', _text(12, 18, node["title"], "title")]
    parts.append(_text(12, 34, node["detail"]))
    if not rows:
        parts.append(_text(14, _HEAD + _ROW / 2 + 4, "no accelerator, network or storage controller here"))
    for row in rows:
        parts += _row(row, rows, shared)
    parts += _brackets(rows, shared)
    return f'<g transform="translate({x:g} {y:g})">{"".join(parts)}</g>', height


def draw(topology: dict[str, Any]) -> str:
    """Return the SVG element of a report's ``topology``; panels stand two in a row."""
    shared = {group for group, members in topology["groups"].items() if len(members["endpoints"]) > 1}
    parts, y, tallest = [], 0.0, 0.0
    nodes = topology["nodes"]
    columns = 1 if len(nodes) == 1 else 2
    for number, node in enumerate(nodes):
        column = number % columns
        if column == 0 and number:
            y, tallest = y + tallest + _GAP, 0.0
        part, height = _panel(node, shared, column * (_WIDTH + _GAP) + 1, y + 1)
        parts.append(part)
        tallest = max(tallest, height)
    width, height = columns * (_WIDTH + _GAP) - _GAP + 2, y + tallest + 2
    return (
        f'<svg class="topology" role="img" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}px" width="100%"><title>NUMA nodes, PCIe tree and IOMMU '
        f"groups</title>{''.join(parts)}</svg>"
    )
