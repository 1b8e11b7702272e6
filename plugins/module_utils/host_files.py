# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bring a host's directories, files and links to what they shall be, and restart the units that read them.

That a unit has to restart is noted before the first of its files is written and forgotten after the restart, so a run
that was killed in between is made good by the next one. The notes are in /run: a host that reboots starts its units
anew anyway.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import atomic
from .kubernetes import errors, programs

PENDING = Path("/run/vllmd/restart")


class FilesError(Exception):
    """Why a file or a unit cannot be what it shall be, in one line."""


@dataclass(frozen=True)
class File:
    """What a file shall be.

    ``validate`` is the program that has to accept the content before anything is written, with ``%s`` for a file that
    has it. ``previous`` is where that is kept once which was there before, empty if nothing was.
    """

    path: Path
    content: bytes
    mode: int = 0o644
    validate: tuple[str, ...] = ()
    previous: Path | None = None


@dataclass(frozen=True)
class Unit:
    """A unit that reads some of the files; it starts with the host, and now if ``started``.

    ``reload`` says that it reads them again without a restart. ``watched`` are files, and directories with all below
    them, that others write: it is restarted when one is newer than its start.
    """

    name: str
    files: frozenset[Path] = frozenset()
    started: bool = False
    reload: bool = False
    watched: tuple[Path, ...] = ()


@dataclass
class Changes:
    """What differs: one line for each directory, link and unit, and before and after of each file."""

    lines: list[str] = field(default_factory=list)
    files: list[tuple[File, bytes | None]] = field(default_factory=list)

    def shown(self) -> list[dict[str, str]]:
        """Return the files as Ansible shows differences."""
        return [
            {
                "before_header": str(file.path),
                "after_header": str(file.path),
                "before": (before or b"").decode(errors="replace"),
                "after": file.content.decode(errors="replace"),
            }
            for file, before in self.files
        ]


def run(argv: Sequence[str]) -> tuple[int, str]:
    """Run ``argv``; return its status and what it said. Raises FilesError when it is not there or does not end."""
    try:
        done = programs.run(argv)
    except errors.NodeError as error:
        raise FilesError(str(error)) from None
    return done.status, done.said.strip()


def compare(
    directories: Iterable[Path], files: Iterable[File], links: Mapping[Path, Path]
) -> tuple[Changes, list[Path], list[tuple[Path, Path]]]:
    """Return what differs, the directories to make, and the links to make with their targets. Raises FilesError."""
    changes = Changes()
    missing = []
    for path in directories:
        if not _looks(path, "a directory", stat.S_ISDIR, follow=True):
            missing.append(path)
            changes.lines.append(f"directory {path}")
    for file in files:
        before = _looks(file.path, "a file", stat.S_ISREG)
        content = _read(file.path) if before else None
        is_ours = before is not None and stat.S_IMODE(before.st_mode) == file.mode and before.st_uid == os.geteuid()
        if content != file.content or not is_ours:
            changes.files.append((file, content))
    linked = []
    for directory, source in links.items():
        names = sorted(entry.name for entry in source.iterdir()) if directory != source and source.is_dir() else []
        for name in names:
            if not os.path.lexists(directory / name):
                linked.append((directory / name, source / name))
                changes.lines.append(f"link {directory / name} to {source / name}")
    return changes, missing, linked


def validate(files: Iterable[File], scratch: Path, *, is_dry: bool = False) -> None:
    """Let each file's program look at its content, below ``scratch``. Raises FilesError when it is refused.

    A dry run passes over a program that is not there, as it may be installed by what runs before.
    """
    for file in files:
        if not file.validate:
            continue
        path = scratch / file.path.name
        atomic.write_file(path, file.content, 0o600)
        try:
            status, said = run([part.replace("%s", str(path)) for part in file.validate])
        except FilesError:
            if is_dry:
                continue
            raise
        finally:
            path.unlink(missing_ok=True)
        if status != 0:
            words = " ".join(said.rpartition("\n")[2].split())[:400]
            raise FilesError(f"{file.path} is left as it was: {file.validate[0]} refuses the new one: {words}")


def write(missing: Iterable[Path], changed: Iterable[File], linked: Iterable[tuple[Path, Path]]) -> None:
    """Make directories, files and links. Raises FilesError; what was written by then is complete."""
    path = Path()
    try:
        for path in missing:
            atomic.make_directory(path)
        for file in changed:
            path = file.path
            if file.previous is not None and not file.previous.exists():
                _keep(file.path, file.previous)
            atomic.make_directory(path.parent)
            atomic.write_file(path, file.content, file.mode)
        for path, target in linked:
            atomic.make_directory(path.parent)
            atomic.write_link(path, str(target))
    except OSError as error:
        raise FilesError(f"cannot write {path}: {error.strerror or error}") from None


def note(units: Iterable[Unit], changed: Iterable[Path]) -> None:
    """Remember which units have to restart because of the files in ``changed``. Raises FilesError."""
    paths = set(changed)
    for unit in units:
        if not paths.isdisjoint(unit.files):
            try:
                atomic.make_directory(PENDING)
                (PENDING / unit.name).touch()
            except OSError as error:
                raise FilesError(f"cannot write {PENDING / unit.name}: {error.strerror or error}") from None


def bring(units: Sequence[Unit], changed: Iterable[Path], *, is_dry: bool = False) -> list[str]:
    """Enable, start and restart units as they need it; return a line for each thing done. Raises FilesError.

    A unit restarts if it runs and one of its files has changed since it was started. What is to be done counts as done
    in a dry run, in which a unit that is not installed yet is passed over.
    """
    paths, lines = set(changed), []
    found = _show([unit.name for unit in units])
    if not is_dry and any(shown["NeedDaemonReload"] == "yes" for shown in found):
        _systemctl("daemon-reload")
        found = _show([unit.name for unit in units])
    for unit, shown in zip(units, found, strict=True):
        if shown["LoadState"] != "loaded":
            if is_dry:
                continue
            raise FilesError(f"{unit.name} is not there ({shown['LoadState']}); install the package that brings it")
        is_late = (PENDING / unit.name).exists() or not paths.isdisjoint(unit.files)
        todo = ["enable"] if shown["UnitFileState"] == "disabled" else []
        if shown["ActiveState"] == "active":
            if _newest(unit.watched) > _started(shown):
                todo.append("restart")
            elif is_late:
                todo.append("reload" if unit.reload else "restart")
        elif unit.started:
            # One that is just starting has read the old files already.
            is_starting = shown["ActiveState"] in ("activating", "reloading")
            todo.append("restart" if is_late and is_starting else "start")
        for verb in todo:
            lines.append(f"{verb} {unit.name}")
            if not is_dry:
                _systemctl(verb, unit.name)
        if not is_dry:
            (PENDING / unit.name).unlink(missing_ok=True)
    return lines


def _started(shown: Mapping[str, str]) -> float:
    """Return when a unit became active (Unix seconds); systemd counts microseconds of the monotonic clock."""
    ago = time.clock_gettime(time.CLOCK_MONOTONIC) - int(shown["ActiveEnterTimestampMonotonic"] or 0) / 1e6
    return time.time() - ago


def _newest(paths: Iterable[Path]) -> float:
    """Return when the newest of ``paths``, and of the files below them, was written (Unix seconds), 0 without any."""
    newest = 0.0
    for path in paths:
        # What Python compiles when the unit has started is no change.
        below = (each for each in path.rglob("*") if "__pycache__" not in each.parts) if path.is_dir() else (path,)
        newest = max([newest, *(each.lstat().st_mtime for each in below if each.is_file())])
    return newest


def _looks(path: Path, kind: str, is_kind: Callable[[int], bool], *, follow: bool = False) -> os.stat_result | None:
    """Return the status of what is at ``path`` if it is of that kind, None for nothing or a link. Raises FilesError."""
    try:
        status = path.stat() if follow else path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FilesError(f"cannot look at {path}: {error.strerror}") from None
    if is_kind(status.st_mode):
        return status
    if stat.S_ISLNK(status.st_mode):
        return None
    raise FilesError(f"{path} is not {kind}; move it away")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FilesError(f"cannot read {path}: {error.strerror}") from None


def _keep(path: Path, previous: Path) -> None:
    """Copy what is at ``path`` to ``previous``, for this user alone; nothing there leaves it empty."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if not previous.parent.is_dir():
        atomic.make_directory(previous.parent)
        previous.parent.chmod(0o700)
    atomic.write_file(previous, content, 0o600)


def _show(names: Sequence[str]) -> list[dict[str, str]]:
    """Return what systemd knows of each unit."""
    properties = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "ActiveEnterTimestampMonotonic")
    if not names:
        return []
    status, said = run(["systemctl", "show", *(f"--property={name}" for name in properties), "--", *names])
    found = [dict(line.partition("=")[::2] for line in part.splitlines()) for part in said.split("\n\n")]
    if status != 0 or len(found) != len(names) or not all(set(properties) <= each.keys() for each in found):
        raise FilesError(f"systemctl does not say what {', '.join(names)} is: {said[:300]}")
    return found


def _systemctl(*arguments: str) -> None:
    status, said = run(["systemctl", *arguments])
    if status != 0:
        raise FilesError(
            f"systemctl {' '.join(arguments)} failed: {' '.join(said.split())[:400]}; "
            "'journalctl --boot' on the host says more"
        )
