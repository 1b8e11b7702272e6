# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bring a snapshot of etcd back on one member, in steps that can be taken again after any interruption.

What stands in ``restore/restore.json`` says how far a restore came: ``prepared`` (the new data directory lies beside
the old one, everything runs), ``stopped`` (the static pods are in ``restore/manifests``), ``swapped`` (the new data
directory is in place, the old one is kept). All members do each step before the next one begins.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import atomic
from . import identity, member, probes, snapshots, tools
from .errors import KeepingError

STATE = "var/lib/vllmd/runtime-controller"
_PREPARED, _STOPPED, _SWAPPED = "prepared", "stopped", "swapped"
#: A restore that died must not keep the member's health from being looked after for ever.
_MAINTENANCE_SECONDS = 3600
#: The new data directory, and what etcd writes when it starts.
_ROOM = 2


@dataclass(frozen=True)
class Record:
    """How far a restore came; paths are those of the host."""

    snapshot: str
    sha256: str
    step: str
    staged: str
    kept: str


class Restore:
    """A restore on the member whose files are below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.directory = root / STATE / "restore"
        self.aside = self.directory / "manifests"
        self.member = member.read(root, self.aside)
        self.data = root / self.member.data_directory.lstrip("/")

    def record(self) -> Record | None:
        """Return what an earlier run noted; None when none is under way. Raises KeepingError, OSError."""
        path = self.directory / "restore.json"
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise KeepingError(
                f"{path} cannot be read; look whether {self.aside} holds static pods, put them back, and remove it"
            ) from None

    def note(self, record: Record) -> None:
        """Write down how far it came. Raises OSError."""
        atomic.write_file(self.directory / "restore.json", (json.dumps(asdict(record)) + "\n").encode(), 0o600)

    def refusals(self, snapshot: snapshots.Snapshot, found: tools.Tools, peers: Mapping[str, str]) -> list[str]:
        """Return why the snapshot cannot be brought back here, a line each. Raises KeepingError, OSError."""
        whose = identity.of_host(self.root, self.aside)
        lines = [identity.difference(whose, snapshot.marks, snapshot.encryption)]
        lines.append(tools.unfit(tools.version(found.for_files), self.member.etcd_version or snapshot.etcd_version))
        if peers.get(self.member.name) != self.member.peer_url:
            lines.append(f"member {self.member.name} at {self.member.peer_url} is not among those that are restored")
        free = shutil.disk_usage(next(path for path in (self.data, *self.data.parents) if path.is_dir())).free
        if free < _ROOM * snapshot.size:
            lines.append(
                f"{self.data} has {free >> 20} MiB free and needs {_ROOM * snapshot.size >> 20}; make room there"
            )
        begun = self.record()
        if begun and begun.step == _SWAPPED and begun.sha256 != snapshot.sha256:
            lines.append(
                f"the restore of {begun.snapshot} has not ended here; end it first, with that one (restore_snapshot)"
            )
        return [line for line in lines if line]

    def prepare(self, path: Path, snapshot: snapshots.Snapshot, found: tools.Tools, peers: Mapping[str, str]) -> bool:
        """Make the new data directory beside the old one; return whether there was something to do.

        Nothing that runs is touched. Raises KeepingError, OSError.
        """
        begun = self.record()
        if begun and begun.sha256 == snapshot.sha256 and (begun.step != _PREPARED or Path(begun.staged).is_dir()):
            return False
        if begun:
            shutil.rmtree(begun.staged, ignore_errors=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        # Beside it, unless it is a disk of its own: renaming works only within one.
        base = self.data if os.path.ismount(self.data) else self.data.parent
        staged, kept = base / f".{self.data.name}.restored-{stamp}", base / f"{self.data.name}.before-{stamp}"
        atomic.make_directory(self.directory)
        self.directory.chmod(0o700)
        atomic.make_directory(base)
        token = f"restored-{snapshot.sha256[:16]}-{len(peers)}"
        try:
            tools.restore(found, path, staged, self.member, peers=peers, token=token)
        except KeepingError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        atomic.fsync_tree(staged)
        # A restore that was stopped before the swap and is done again with another snapshot stays stopped.
        step = begun.step if begun else _PREPARED
        self.note(Record(snapshot.name, snapshot.sha256, step, str(staged), str(kept)))
        return True

    def stop(self, seconds: float) -> bool:
        """Take the static pods aside and wait until none of them runs. Raises KeepingError, OSError."""
        begun = self._begun()
        if begun.step == _SWAPPED:
            return False
        self.pause()
        moved = self._move(member.COMPONENTS[::-1], self.root / member.MANIFESTS, self.aside)
        self.note(replace(begun, step=_STOPPED))
        probes.wait("the control plane still runs, see 'systemctl status kubelet',", seconds, self._still_runs)
        return moved

    def swap(self) -> bool:
        """Put the new data directory in the old one's place, and keep that. Raises KeepingError, OSError."""
        begun = self._begun()
        if begun.step == _SWAPPED:
            return False
        if begun.step != _STOPPED or self._still_runs():
            raise KeepingError(f"{self.data} is in use; stop the control plane's static pods first")
        staged, kept, new = Path(begun.staged), Path(begun.kept), self.data / "member"
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.data.chmod(0o700)
        if (staged / "member").is_dir():
            if new.exists():
                kept.mkdir(mode=0o700, exist_ok=True)
                new.rename(kept / "member")
            owner = self.data.stat()
            for path in (staged / "member", *(staged / "member").rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
            (staged / "member").rename(new)
            atomic.fsync_directory(self.data)
        if not new.is_dir():
            raise KeepingError(
                f"{staged} has gone, which was to be {self.data}; remove {self.directory} and begin again"
            )
        self.note(replace(begun, step=_SWAPPED))
        shutil.rmtree(staged, ignore_errors=True)
        return True

    def start(self, components: Sequence[str]) -> bool:
        """Put these static pods back; return whether one was aside. Raises OSError."""
        return self._move(components, self.aside, self.root / member.MANIFESTS)

    def abandon(self) -> bool:
        """Let everything be as it was, as long as nothing was swapped. Raises KeepingError, OSError."""
        begun = self.record()
        if begun is None or begun.step == _SWAPPED:
            return False
        self.start(member.COMPONENTS)
        shutil.rmtree(begun.staged, ignore_errors=True)
        self.end()
        return True

    def end(self) -> bool:
        """Forget the restore; the old data directory stays. Raises OSError."""
        had = self.directory.is_dir()
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.root / STATE / "maintenance.json").unlink(missing_ok=True)
        return had

    def pause(self) -> None:
        """Let nobody recover meanwhile what is stopped on purpose. Raises OSError."""
        said: dict[str, Any] = {"why": "a snapshot is brought back", "until": int(time.time()) + _MAINTENANCE_SECONDS}
        atomic.write_file(self.root / STATE / "maintenance.json", (json.dumps(said) + "\n").encode(), 0o600)

    def _begun(self) -> Record:
        begun = self.record()
        if begun is None:
            raise KeepingError("no restore was prepared on this member; begin with its first step")
        return begun

    def _still_runs(self) -> str:
        """Return what still runs; empty when nothing does. The lock is bbolt's own, which is held while etcd lives."""
        running = probes.runs(self.member, self.root, self.aside)
        database = self.data / "member/snap/db"
        if database.is_file():
            with database.open("rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    running.append(f"a process with {database} open")
        return ", ".join(running)

    def _move(self, components: Sequence[str], source: Path, target: Path) -> bool:
        moved = False
        for component in components:
            path = source / f"{component}.yaml"
            if path.is_file():
                # Written as a whole, since both may be on different disks, and the kubelet reads what is there.
                if not target.is_dir():
                    atomic.make_directory(target)
                    target.chmod(0o700)
                atomic.write_file(target / path.name, path.read_bytes(), 0o600)
                path.unlink()
                moved = True
        return moved


def loss(snapshot: snapshots.Snapshot, now: int, revision: int = 0) -> str:
    """Return in a sentence what goes when the snapshot comes back; ``revision``: the cluster's own, 0 unknown."""
    text = (
        f"{snapshot.name} is {snapshots.age(now - snapshot.created)} old: what was written since is lost, and what was "
        "deleted since comes back"
    )
    if revision > snapshot.revision:
        text += f" ({revision - snapshot.revision} changes)"
    return text
