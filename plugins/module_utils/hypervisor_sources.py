# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Was a runtime started from its files as they are now? By their content, where its start was one of ours.

A start by systemd itself, after a crash or a boot, leaves only the time of its marker to compare with. Clocks are set,
so that is asked once: what is found then is remembered with the start that it was found for, in a file beside the
runtime's directory, which is the virtual machine monitor's to write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from . import atomic
from .digests import digest_file


def memory_of(marker: Path) -> Path:
    """Return the file that keeps what the runtime was started from."""
    return marker.parent.with_name(f".{marker.parent.name}.sources.json")


def digests(sources: Iterable[Path]) -> dict[str, str]:
    """Return the digest of each of the files that exist, by path. Raises OSError."""
    return {str(path): digest_file(path) for path in sources if path.exists()}


def changed(marker: Path, sources: Iterable[Path]) -> tuple[list[str], bool]:
    """Return the files that are not as they were at the start, and whether this was told by their content.

    ``marker`` is what the launcher writes at each start. Without one nothing is known, and nothing counts as changed.
    Raises OSError.
    """
    start = _start(marker)
    if not start:
        return [], False
    found = digests(sources)
    known = _known(memory_of(marker), start)
    if known is None:
        return _newer(marker, found), False
    gone = [path for path in known if path not in found and not Path(path).exists()]
    other = [path for path, digest in found.items() if path in known and known[path] != digest]
    unknown = _newer(marker, [path for path in found if path not in known])
    return sorted({*gone, *other, *unknown}), True


def remember(marker: Path, found: dict[str, str]) -> None:
    """Keep what the start that wrote ``marker`` was from. Raises OSError."""
    start = _start(marker)
    if start:
        content = json.dumps({"start": start, "sources": found}, sort_keys=True)
        atomic.write_file(memory_of(marker), content.encode(), 0o600)


def forget(marker: Path) -> None:
    """Remove what is kept: the runtime was stopped. Raises OSError."""
    memory_of(marker).unlink(missing_ok=True)


def _start(marker: Path) -> str:
    """Return what tells one start from another: the launcher makes a new marker each time."""
    try:
        status = marker.stat()
    except OSError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns}"


def _known(path: Path, start: str) -> dict[str, str] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sources = record["sources"] if record["start"] == start else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {str(path): str(digest) for path, digest in sources.items()} if isinstance(sources, dict) else None


def _newer(marker: Path, paths: Iterable[str]) -> list[str]:
    started = marker.stat().st_mtime_ns
    return sorted(path for path in paths if Path(path).stat().st_mtime_ns > started)
