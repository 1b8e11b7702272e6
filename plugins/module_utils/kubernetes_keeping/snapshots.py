# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Snapshots as files: their names, what lies beside each, which are kept, and whether one is whole.

``etcd-<time>-<member>.db`` is what etcd wrote; the same name with ``.json`` is written last and says what it is and its
digest, so a snapshot counts only once it is complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import KeepingError

FORMAT = 1
_NAME = re.compile(r"etcd-[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9.-]{1,253}\.db")
_BLOCK = 1 << 20
_DAY = 86400


@dataclass(frozen=True)
class Snapshot:
    """What is known of a snapshot; ``created`` in seconds since 1970, ``size`` in bytes."""

    name: str
    created: int
    member: str
    sha256: str
    size: int
    revision: int
    keys: int
    etcd_version: str
    kubernetes_version: str
    marks: tuple[str, ...]
    encryption: tuple[str, ...]
    reason: str


def name_of(created: int, member: str) -> str:
    """Return the file name of a snapshot of ``member`` that was begun at ``created`` (seconds since 1970)."""
    return f"etcd-{datetime.fromtimestamp(created, UTC):%Y%m%dT%H%M%SZ}-{member}.db"


def beside(path: Path) -> Path:
    """Return the path of what says what the snapshot at ``path`` is."""
    return path.with_suffix(".json")


def text_of(snapshot: Snapshot) -> str:
    """Return what is written beside a snapshot."""
    return json.dumps({"format": FORMAT, **asdict(snapshot)}, indent=2, sort_keys=True) + "\n"


def parse(text: str, where: str) -> Snapshot:
    """Return the snapshot that ``text``, found at ``where``, describes. Raises KeepingError."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("format")
        values: dict[str, Any] = {name: found[name] for name in Snapshot.__dataclass_fields__}
        for name in ("created", "size", "revision", "keys"):
            values[name] = int(values[name])
        for name in ("marks", "encryption"):
            values[name] = tuple(str(each) for each in values[name])
        if not _NAME.fullmatch(str(values["name"])) or not re.fullmatch("[0-9a-f]{64}", str(values["sha256"])):
            raise ValueError("name or digest")
    except (ValueError, KeyError, TypeError):
        raise KeepingError(f"{where} does not describe a snapshot of this role; take it as it was written") from None
    return Snapshot(**values)


def read(path: Path) -> Snapshot:
    """Return what is written beside the snapshot at ``path``. Raises KeepingError, OSError."""
    about = beside(path)
    if not path.is_file():
        raise KeepingError(f"{path} is not there; 'ls {path.parent}' shows which snapshots are")
    if not about.is_file():
        raise KeepingError(f"{about} is not there, so nothing says whose {path.name} is and whether it is whole")
    return parse(about.read_text(encoding="utf-8", errors="replace"), str(about))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def check(path: Path) -> Snapshot:
    """Return what the snapshot at ``path`` is; its size and digest were compared. Raises KeepingError, OSError."""
    snapshot = read(path)
    if path.stat().st_size != snapshot.size:
        raise KeepingError(
            f"{path} has {path.stat().st_size} bytes and had {snapshot.size} when it was taken; take another"
        )
    if (found := digest(path)) != snapshot.sha256:
        raise KeepingError(
            f"{path} has the SHA-256 {found[:16]}... and had {snapshot.sha256[:16]}... when taken; take another one"
        )
    return snapshot


def there(directory: Path) -> list[Snapshot]:
    """Return the complete snapshots of a directory, the newest first; what cannot be read is none. Raises OSError."""
    found = []
    for path in sorted(directory.glob("etcd-*.db")):
        try:
            found.append(read(path))
        except KeepingError:
            continue
    return sorted(found, key=lambda each: (each.created, each.name), reverse=True)


def superfluous(snapshots: Iterable[Snapshot], now: int, count: int, days: int) -> list[Snapshot]:
    """Return those to remove: beyond the newest ``count``, and those older than ``days`` (0: however old).

    The newest one is kept however old it is.
    """
    ordered = sorted(snapshots, key=lambda each: (each.created, each.name), reverse=True)
    return [
        each
        for place, each in enumerate(ordered)
        if place > 0 and (place >= count or (days > 0 and now - each.created > days * _DAY))
    ]


def age(seconds: int) -> str:
    """Return an age as a person says it: ``3 d 4 h``, ``2 h 5 min``, ``40 s``."""
    seconds = max(seconds, 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
