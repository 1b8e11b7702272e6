# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read a guest's serial console log for people: its last lines, without what only a terminal understands."""

from __future__ import annotations

import re
from pathlib import Path

_BYTES = 65536
# What the services in our guest write; see image element vllmd-runtime.
_FAILED, _STARTED = "vllmd: FAILED:", "vllmd: engine started"
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """Return text without terminal escape sequences and control characters, except newlines and tabs."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def _lines(path: Path, since: int) -> list[str]:
    try:
        with path.open("rb") as log:
            end = log.seek(0, 2)
            # A rotated log is shorter than it was; then everything in it is new.
            log.seek(max(0 if since > end else since, end - _BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in plain(text).splitlines() if line.strip()]


def size(path: Path) -> int:
    """Return the log's size in bytes; 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, count: int) -> list[str]:
    """Return the last ``count`` lines with something in them; none when the log cannot be read.

    Of a longer log only the last 64 KiB are read.
    """
    return _lines(path, 0)[-count:]


def failure(path: Path, since: int) -> str:
    """Return why the guest gave up, in its own words, or an empty string while it did not.

    Looks behind byte ``since`` of its console log. A failure that an engine's new start follows is none.
    """
    reason = ""
    for line in _lines(path, since):
        if _FAILED in line:
            reason = line.partition(_FAILED)[2].strip()
        elif _STARTED in line:
            reason = ""
    return reason
