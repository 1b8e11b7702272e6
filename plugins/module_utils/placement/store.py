# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan's file: read, compare, write as a whole, and never two at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import atomic, locks
from .data import DataError
from .report import text

_LASTING = ("settings", "placements", "unplaced", "hosts")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let nobody else plan into the file while the block runs. Raises locks.LockedError, OSError."""
    with locks.exclusive(path.with_name(f".{path.name}.lock"), f"the plan {path}"):
        yield


def load(path: Path) -> dict[str, Any] | None:
    """Return the plan in the file, None when there is no file. Raises DataError, one line, and OSError."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a plan, not even text; {_ADVICE}") from None
    try:
        data = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not a plan: {error.msg}; {_ADVICE}") from None
    except RecursionError:
        raise DataError(f"{path}: not a plan: nested too deep; {_ADVICE}") from None
    if not isinstance(data, dict) or not isinstance(data.get("placements"), list):
        raise DataError(f"{path}: not a plan: it has no list of placements; {_ADVICE}")
    return data


_ADVICE = "put the file back as it was; without it nobody knows what runs where"


def differs(before: dict[str, Any] | None, plan: dict[str, Any]) -> bool:
    """Return whether the plan says other things than the one before, beside what it changes."""
    return before is None or any(before.get(key) != plan[key] for key in _LASTING)


def save(path: Path, plan: dict[str, Any]) -> None:
    """Put the plan in the file's place. Raises OSError."""
    atomic.make_directory(path.parent)
    atomic.write_file(path, text(plan).encode(), 0o644)
