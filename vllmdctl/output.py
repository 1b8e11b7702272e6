# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Results on standard output: a table for people, JSON or YAML for programs. Everything else goes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """What ``--output`` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def say(line: str) -> None:
    """Print a line for a person."""
    print(line, file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask; the end of standard input is no agreement."""
    import typer

    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        say("")
        return False


def emit(
    output: Format,
    data: Any,
    columns: Sequence[str] = (),
    empty: str = "",
    style: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Print ``data``: a list of dicts as a table of ``columns``, a dict as two columns.

    A table of nothing is the line ``empty``, on standard error. ``style`` gives a row its colour on a terminal.
    """
    if output is Format.JSON:
        print(json.dumps(data, indent=2, default=str))
    elif output is Format.YAML:
        import yaml

        # Through JSON, so that both have the same types.
        plain = json.loads(json.dumps(data, default=str))
        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120), end="")
    elif isinstance(data, dict):
        _table(("", ""), [(name, cell(value)) for name, value in data.items()], header=False)
    elif data:
        styles = [style(row) for row in data] if style else []
        _table(columns, [[cell(row.get(column)) for column in columns] for row in data], header=True, styles=styles)
    elif empty:
        say(empty)
    sys.stdout.flush()  # what is said afterwards, on standard error, comes afterwards in one file, too


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value) or "-"
    return str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], header: bool, styles: Sequence[str] = ()) -> None:
    if not sys.stdout.isatty():
        _plain_table(columns, rows, header)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=header, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " ").upper(), overflow="fold")
    for number, row in enumerate(rows):
        # Text: what is in a cell is no markup
        table.add_row(*(Text(each) for each in row), style=styles[number] if styles else None)
    Console().print(table)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], header: bool) -> None:
    """Print columns without colours, folds or a width: what grep and awk want."""
    lines = [[column.replace("_", " ").upper() for column in columns]] if header else []
    lines += [[" ".join(each.split()) for each in row] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))] if lines else []
    for line in lines:
        print("  ".join(each.ljust(width) for each, width in zip(line, widths, strict=True)).rstrip())


def human_size(size_bytes: float) -> str:
    """Return bytes as a person says them: 1536 -> "1.5 KiB"."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
