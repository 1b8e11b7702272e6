# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The report of a build as one HTML page that needs nothing beside itself: no script, font, image or network.

The picture is a treemap: each layer a panel, each package, wheel and model a box in it, area by size. Names and sizes
are written in the boxes, so it says the same without colour; a box too small for its name has it as a tooltip, and the
table below lists what is large. Everything that comes from the build is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .quantities import difference, human

_WIDTH, _HEIGHT = 1200.0, 620.0
_HEAD = 18.0  # a panel's title
_GAP = 3.0
_CHARACTER = 6.2  # width of one character of a box's text, pixels
_TITLE_CHARACTER = 7.4
_LINE = 13.0
_SMALLEST = 160.0  # square pixels; smaller boxes are drawn as one
_ROWS = 40

_STYLE = """
:root{color-scheme:light dark;--line:#8886}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:24px}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0 8px}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-top:1px solid var(--line)}
th{font-weight:600}td{overflow-wrap:anywhere}.n{text-align:right;white-space:nowrap}
.id{font:13px ui-monospace,Menlo,Consolas,monospace}details>summary{cursor:pointer}
svg{width:100%;height:auto}
svg text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:currentColor}
svg .t{font-weight:bold;font-size:12px}
svg .l{fill:currentColor;fill-opacity:.05;stroke:currentColor;stroke-width:1.5}
svg .b{fill:currentColor;fill-opacity:.08;stroke:currentColor;stroke-opacity:.45}
svg .wheel{fill-opacity:.14}svg .model{fill-opacity:.02;stroke-dasharray:5 2}svg .files{fill:none;stroke-dasharray:2 2}
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def inner(self, head: float, gap: float) -> Box:
        """Return the box without ``head`` at its top and ``gap`` at every side; never negative."""
        return Box(self.x + gap, self.y + head, max(0.0, self.width - 2 * gap), max(0.0, self.height - head - gap))


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Return a box for each of ``sizes`` (largest first, all positive), areas in proportion, filling ``box``.

    Rows are filled along the shorter side as long as that makes their boxes more square (Bruls, Huizing and van Wijk,
    "Squarified Treemaps", 2000).
    """
    total = sum(sizes)
    if not total or box.width <= 0 or box.height <= 0:
        return [Box(box.x, box.y, 0.0, 0.0) for _size in sizes]
    scale = box.width * box.height / total
    areas = [size * scale for size in sizes]
    placed: list[Box] = []
    start = 0
    while start < len(areas):
        side = min(box.width, box.height)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(areas[start:end], side):
            end += 1
        row, box = _row(areas[start:end], box)
        placed += row
        start = end
    return placed


def _worst(areas: Sequence[float], side: float) -> float:
    """Return the worst ratio of a box's sides when ``areas`` fill one row along ``side``."""
    total = sum(areas)
    if not total or not side:
        return float("inf")
    return max(side * side * max(areas) / total**2, total**2 / (side * side * max(min(areas), 1e-9)))


def _row(areas: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """Place ``areas`` along the shorter side of ``box``; return their boxes and what is left."""
    total = sum(areas)
    placed = []
    if box.width >= box.height:
        depth, offset = total / box.height if box.height else 0.0, box.y
        for area in areas:
            length = area / depth if depth else 0.0
            placed.append(Box(box.x, offset, depth, length))
            offset += length
        return placed, Box(box.x + depth, box.y, max(0.0, box.width - depth), box.height)
    depth, offset = total / box.width, box.x
    for area in areas:
        length = area / depth if depth else 0.0
        placed.append(Box(offset, box.y, length, depth))
        offset += length
    return placed, Box(box.x, box.y + depth, box.width, max(0.0, box.height - depth))


def _e(text: Any) -> str:
    return escape("".join(char if char.isprintable() else " " for char in str(text)))


def _rect(box: Box, kind: str, title: str) -> str:
    return (
        f'<rect class="{kind}" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}">'
        f"<title>{_e(title)}</title></rect>"
    )


def _label(box: Box, lines: Sequence[str], kind: str = "") -> Iterator[str]:
    """Yield the lines that fit into ``box``, each shortened to its width."""
    room = int((box.width - 6) / (_TITLE_CHARACTER if kind else _CHARACTER))
    if room < 3:
        return
    for number, line in enumerate(lines):
        if _LINE * (number + 1) + 1 > box.height:
            return
        short = line if len(line) <= room else line[: room - 1] + "…"
        attribute = f' class="{kind}"' if kind else ""
        yield f'<text{attribute} x="{box.x + 4:.1f}" y="{box.y + _LINE * (number + 1) - 1:.1f}">{_e(short)}</text>'


def treemap(layers: Mapping[str, int], parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the picture as inline SVG; ``layers`` and ``parts`` as in `image_report.compose`, largest first."""
    shown = [(name, size) for name, size in layers.items() if size > 0]
    total = sum(size for _name, size in shown)
    if not total:
        return ""
    svg = [f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="Size by layer and by part">']
    for (name, size), cell in zip(shown, squarify([s for _n, s in shown], Box(0, 0, _WIDTH, _HEIGHT)), strict=True):
        panel = Box(cell.x + 1, cell.y + 1, max(0.0, cell.width - 2), max(0.0, cell.height - 2))
        title = f"{name} {human(size)}, {100 * size / total:.0f} %"
        svg.append(_rect(panel, "l", title))
        svg += _label(panel, [title], "t")
        area = panel.inner(_HEAD, _GAP)
        grouped = _grouped([part for part in parts if part["layer"] == name], size, area.width * area.height)
        for part, box in zip(grouped, squarify([part["bytes"] for part in grouped], area), strict=True):
            svg.append(_rect(box, f"b {part['kind']}", f"{part['name']} {part['version']} {human(part['bytes'])}"))
            svg += _label(box, [part["name"], human(part["bytes"])])
    return "".join([*svg, "</svg>"])


def _grouped(parts: Sequence[Mapping[str, Any]], size: int, area: float) -> list[dict[str, Any]]:
    """Return the parts that get a box of their own, and one for all that would be too small to see."""
    large = [dict(part) for part in parts if part["bytes"] * area / max(1, size) >= _SMALLEST]
    rest = list(parts)[len(large) :]
    if rest:
        name = f"{len(rest)} smaller" if len(rest) > 1 else rest[0]["name"]
        total = sum(part["bytes"] for part in rest)
        large.append({"name": name, "kind": "files", "version": "", "bytes": total})
    return sorted((part for part in large if part["bytes"] > 0), key=lambda part: -part["bytes"])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    def cells(tag: str, row: Sequence[Any]) -> str:
        marks = (' class="n"' if column in numbers else "" for column in range(len(row)))
        return "".join(f"<{tag}{mark}>{_e(value)}</{tag}>" for mark, value in zip(marks, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    return f"<table>{top}<tbody>{body}</tbody></table>" if body else "<p>none</p>"


def _sizes(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["parts"]:
        return
    total = max(1, report["total_bytes"])
    yield "<h2>Where the bytes are</h2>"
    yield "<p><small>Dark boxes are wheels, light ones Debian packages, dashed ones models and other files.</small></p>"
    yield treemap(report["layers"], report["parts"])
    rows = ((name, human(size), f"{100 * size / total:.1f} %") for name, size in report["layers"].items())
    yield _table(("layer", "size", "share"), rows, (1, 2))
    yield f"<details><summary>The {_ROWS} largest parts</summary>"
    largest = (
        (part["name"], part["version"], part["kind"], part["layer"], human(part["bytes"]))
        for part in report["parts"][:_ROWS]
    )
    yield _table(("name", "version", "kind", "layer", "size"), largest, (4,)) + "</details>"


def change_rows(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return name, what it was, what it is and its gain, for rows of `image_report.changes`."""
    return [(row["name"], row["before"] or "-", row["after"] or "-", difference(row["bytes"])) for row in rows]


def _since(since: Mapping[str, Any] | None) -> Iterator[str]:
    if since is None:
        return
    gained = "" if since["bytes"] is None else f" ({difference(since['bytes'])})"
    yield f"<h2>Changed since {_e(since['version'])}{_e(gained)}</h2>"
    for kind in ("packages", "wheels", "models"):
        if since[kind]:
            yield _table((kind, "before", "now", "size"), change_rows(since[kind]), (3,))
    yield f"<p>Inputs that differ: {_e(', '.join(since['inputs'])) or 'none'}</p>"


def _body(report: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h1>Image {_e(report["name"])} <span class="id">{_e(report["version"])}</span></h1>'
    if report["parts"]:
        yield f"<p>{human(report['total_bytes'])} in {report['file_count']} files</p>"
    yield _table(("", ""), report["facts"].items())
    yield from _sizes(report)
    yield from _since(report["since"])
    if report["made"]:
        yield "<h2>Layers of this build</h2>" + _table(("layer", "how", "seconds"), report["made"], (2,))
    if report["phases"]:
        yield "<h2>Where the time went</h2>" + _table(("phase", "seconds"), report["phases"].items(), (1,))
        rows = ((row["script"], row["seconds"]) for row in report["slowest"])
        yield _table(("slowest steps", "seconds"), rows, (1,))
    yield "<h2>Files</h2>"
    files = ((name, human(entry["size_bytes"]), entry["sha256"]) for name, entry in report["files"].items())
    yield _table(("file", "size", "SHA-256"), files, (1,))
    yield f"<h2>Services that start by themselves</h2><p>{_e(', '.join(report['services'])) or 'unknown'}</p>"
    yield "<details><summary>Inputs</summary>" + _table(("input", "value or digest"), report["inputs"].items())
    yield "</details>"


def page(report: Mapping[str, Any]) -> str:
    """Return the page for the dict that `image_report.compose` returns."""
    title = f"Image {report['name']} {report['version']}"
    return _PAGE.format(title=_e(title), style=_STYLE, body="\n".join(_body(report)))
