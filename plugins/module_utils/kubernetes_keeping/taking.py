# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Take a snapshot of this member's etcd: whole or not at all, looked through, with its digest beside it.

    vllmd-etcd-snapshot [--reason backup] [--list] [--check]

What is kept, and for how long, stands in /etc/vllmd/runtime-controller/snapshots.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import atomic, locks
from . import identity, member, snapshots, tools
from .errors import KeepingError, say

SETTINGS = Path("/etc/vllmd/runtime-controller/snapshots.json")
LOCK = Path("/run/lock/vllmd-etcd-snapshot.lock")
#: The copy, and etcd's own growth meanwhile.
_ROOM = 2


@dataclass(frozen=True)
class Settings:
    """Where snapshots go, how many are kept, for how many days (0: however old), and where etcd's tools are."""

    directory: Path
    count: int = 28
    days: int = 0
    tools: str = ""


def settings(path: Path = SETTINGS) -> Settings:
    """Return what the role wrote. Raises KeepingError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Settings(Path(found["directory"]), int(found["count"]), int(found["days"]), str(found["tools"]))
    except FileNotFoundError:
        raise KeepingError(f"{path} is not there; role runtime_controller writes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeepingError(f"{path} cannot be read ({error}); role runtime_controller writes it anew") from None


def make_directory(path: Path) -> None:
    """Make the directory for root alone, since a snapshot has every Secret of the cluster in it. Raises OSError."""
    atomic.make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


def room(directory: Path, size: int) -> None:
    """Refuse to begin where a snapshot of ``size`` bytes would fill the disk. Raises KeepingError, OSError."""
    free = shutil.disk_usage(directory).free
    if free < _ROOM * size:
        raise KeepingError(
            f"{directory} has {free >> 20} MiB free and a snapshot needs {(_ROOM * size >> 20) + 1}; make room there, "
            "or keep fewer snapshots (runtime_controller_snapshot_count)"
        )


def take(given: Settings, reason: str, root: Path = Path("/"), now: int | None = None) -> snapshots.Snapshot:
    """Take one and return what it is. Leaves nothing when it fails. Raises KeepingError, OSError."""
    here, whose, found = member.read(root), identity.of_host(root), tools.find(given.tools)
    client = tools.client(found, here, root)
    status = client.status()
    make_directory(given.directory)
    room(given.directory, int(status.get("dbSize", 0)))
    created = int(time.time()) if now is None else now
    path = given.directory / snapshots.name_of(created, here.name)
    partial = given.directory / f".{path.name}.partial"
    # What a run that was killed has left; nobody else writes here, the lock is ours.
    for leftover in given.directory.glob(".etcd-*"):
        leftover.unlink()
    try:
        client.save(partial)
        partial.chmod(0o600)
        about = tools.inspect(found, partial)
        snapshot = snapshots.Snapshot(
            name=path.name,
            created=created,
            member=here.name,
            sha256=snapshots.digest(partial),
            size=partial.stat().st_size,
            revision=about["revision"],
            keys=about["totalKey"],
            etcd_version=str(status.get("version") or here.etcd_version),
            kubernetes_version=kubernetes_version(root),
            marks=whose.marks,
            encryption=whose.encryption,
            reason=reason,
        )
        atomic.replace_file(partial, path)
        atomic.write_file(snapshots.beside(path), snapshots.text_of(snapshot).encode(), 0o600)
    finally:
        for leftover in given.directory.glob(".etcd-*"):
            leftover.unlink()
    return snapshot


def kubernetes_version(root: Path) -> str:
    """Return the version of the member's API server, such as 1.33.1, by its image; empty when that says none."""
    try:
        name = member.image(member.manifest_of(root, "kube-apiserver"))
    except KeepingError:
        return ""
    return name.rpartition(":v")[2] if ":v" in name else ""


def prune(given: Settings, now: int) -> list[str]:
    """Remove what is beyond count and age; return the names. Raises OSError."""
    gone = []
    for each in snapshots.superfluous(snapshots.there(given.directory), now, given.count, given.days):
        path = given.directory / each.name
        # Without what is beside it, it is none: in this order a stop between the two leaves no half one that counts.
        snapshots.beside(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        gone.append(each.name)
    for path in given.directory.glob("etcd-*.db"):
        if not snapshots.beside(path).exists():
            path.unlink()
            gone.append(path.name)
    return gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status: 0, or 1 after one line on standard error."""
    parser = argparse.ArgumentParser(prog="vllmd-etcd-snapshot", description="Take a snapshot of this member's etcd.")
    parser.add_argument("--reason", default="timer", help="why it is taken; is noted beside it")
    parser.add_argument("--list", action="store_true", help="say which there are instead, the newest first, as JSON")
    parser.add_argument("--check", action="store_true", help="only see whether one could be taken")
    options = parser.parse_args(argv)
    os.umask(0o077)
    try:
        given = settings()
        if options.list:
            known = snapshots.there(given.directory) if given.directory.is_dir() else []
            say(json.dumps([asdict(each) for each in known]))
            return 0
        if options.check:
            here, found = member.read(), tools.find(given.tools)
            identity.of_host()
            status = tools.client(found, here).status()
            say(f"{here.name}: etcd {status.get('version', '')} is healthy, {int(status.get('dbSize', 0)) >> 20} MiB")
            return 0
        with locks.exclusive(LOCK, "taking a snapshot of etcd", wait_seconds=60):
            snapshot = take(given, options.reason)
            gone = prune(given, snapshot.created)
    except (KeepingError, locks.LockedError) as error:
        say(f"snapshot: {error}", sys.stderr)
        return 1
    except OSError as error:
        say(f"snapshot: {error.filename}: {error.strerror}", sys.stderr)
        return 1
    say(json.dumps({**asdict(snapshot), "path": str(given.directory / snapshot.name), "removed": gone}))
    return 0
