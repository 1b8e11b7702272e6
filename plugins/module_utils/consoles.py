# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read a guest's serial console log for people: its last lines, without what only a terminal understands."""

from __future__ import annotations

import re
from pathlib import Path

_BYTES = 65536
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """Return text without terminal escape sequences and control characters, except newlines and tabs."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def tail(path: Path, count: int) -> list[str]:
    """Return the last ``count`` lines with something in them; none when the log cannot be read.

    Of a longer log only the last 64 KiB are read.
    """
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in plain(text).splitlines() if line.strip()][-count:]
