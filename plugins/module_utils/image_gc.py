# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a builder can do without: old versions, layers, wheels and models that nothing needs, what killed builds left.

`survey` reads and decides, `collect` removes what it decided, each thing under the lock that its makers hold, decided
anew there. Nothing that a process uses, that ``latest`` or a runtime names, that is pinned, that is among the newest N
or that somebody is making is removed. Sizes in bytes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import build_cleanup, image_manifest, image_references, images, locks
from .image_manifest import ImageError

#: A log of an image that is no longer in the store stays this long: it may say why there is no image.
LOG_DAYS = 30
_LOG = re.compile(r"(?:image|wheels|models)-(?P<name>[a-z0-9-]+)\.log")
_ENTRY = re.compile(r"[0-9a-f]{12}")
_BUILD_PARTS = {"tmp", "layers"}
_PARTIAL = re.compile(r"\.[0-9a-f]{12}\.partial(?:-.*)?")


@dataclass(frozen=True)
class Scope:
    """Where to look and what to keep; ``keep`` counts for each image, model and kind of cache entry by itself."""

    store: Path
    cache: Path
    build: Path
    logs: Path
    keep: int
    pins: tuple[str, ...] = ()
    #: Cache entries that the builder's own settings name: the current wheelhouse and models.
    keep_paths: tuple[Path, ...] = ()
    references: tuple[str, ...] = image_references.REFERENCE_FILES
    root: Path = Path("/")


@dataclass(frozen=True)
class Item:
    """One thing that could go: ``kept`` says why it stays, empty when nothing needs it."""

    kind: str
    path: Path
    size: int
    kept: str

    def as_dict(self) -> dict[str, Any]:
        """Return the item as the module's result has it."""
        return {"kind": self.kind, "path": str(self.path), "size_bytes": self.size, "kept": self.kept}


def disk_usage(path: Path) -> int:
    """Return what removing ``path`` frees, in bytes: the blocks of its files, those with other names elsewhere not."""
    total = 0
    seen: dict[int, int] = {}
    entries = [path]
    for directory, names, files in os.walk(path):
        entries += [Path(directory, name) for name in (*names, *files)]
    for entry in entries:
        try:
            status = entry.lstat()
        except FileNotFoundError:
            continue  # somebody tidied up meanwhile
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            seen[status.st_ino] = seen.get(status.st_ino, 0) + 1
            if seen[status.st_ino] < status.st_nlink:
                continue
        total += status.st_blocks * 512
    return total


def survey(scope: Scope) -> list[Item]:
    """Return everything that could go, with the reason for what stays. Reads only. Raises ImageError, OSError."""
    needed = image_references.needed(scope.store, scope.pins, scope.references, scope.root)
    return [
        *_images(scope, needed),
        *_layers(scope, needed),
        *(item for kind, parent, pattern in _caches(scope) for item in _cached(scope, kind, parent, pattern)),
        *_builds(scope),
        *_logs(scope),
    ]


def _images(scope: Scope, needed: Mapping[tuple[str, str], str]) -> Iterator[Item]:
    for name in images.names(scope.store):
        versions = images.versions(scope.store, name)
        newest = versions[max(0, len(versions) - scope.keep) :]
        for version in versions:
            reason = needed.get((name, version), "")
            if not reason and version in newest:
                reason = f"among the newest {scope.keep}"
            path = scope.store / name / version
            yield Item("image", path, disk_usage(path), reason)
        busy = _busy(images.lock_path(scope.store, name), scope.root)
        for path in images.leftovers(scope.store, name):
            yield Item("leftover", path, disk_usage(path), busy)


def _layers(scope: Scope, needed: Mapping[tuple[str, str], str]) -> Iterator[Item]:
    """Yield the finished layers: those of versions that stay would only have to be built again."""
    directory = scope.cache / "layers"
    newest = {name: images.versions(scope.store, name)[-scope.keep :] for name in images.names(scope.store)}
    stay = {*needed, *((name, version) for name, versions in newest.items() for version in versions)}
    used = {
        key: f"{name}/{version}" for name, version in sorted(stay) for key in _layer_keys(scope.store / name / version)
    }
    # A build holds this lock shared, from before it chooses its layer until it has kept its own.
    busy = _busy(directory / ".lock", scope.root)
    for path in _by_age(directory, (_ENTRY, _PARTIAL)):
        reason = busy or (f"part of {used[path.name]}" if path.name in used else "")
        yield Item("layer" if _ENTRY.fullmatch(path.name) else "leftover", path, disk_usage(path), reason)


def _layer_keys(version: Path) -> list[str]:
    try:
        layers = image_manifest.load(version).get("layers", [])
    except ImageError:
        return []
    return [str(layer.get("key")) for layer in layers if isinstance(layer, dict)]


def _caches(scope: Scope) -> list[tuple[str, Path, re.Pattern[str]]]:
    models = scope.cache / "models"
    found = [("wheels", scope.cache / "wheels", _ENTRY)]
    if models.is_dir():
        found += [("model", path, _ENTRY) for path in sorted(models.iterdir()) if path.is_dir()]
    return found


def _cached(scope: Scope, kind: str, parent: Path, pattern: re.Pattern[str]) -> Iterator[Item]:
    """Yield the entries of one cache directory; each has a lock file beside it that its maker holds."""
    entries = _by_age(parent, (pattern, _PARTIAL))
    whole = [path for path in entries if pattern.fullmatch(path.name)]
    newest = whole[max(0, len(whole) - scope.keep) :]
    wanted = {path.resolve() for path in scope.keep_paths}
    for path in entries:
        reason = _busy(_entry_lock(path), scope.root)
        if not reason and path.resolve() in wanted:
            reason = "what the next build uses"
        if not reason and path in newest:
            reason = f"among the newest {scope.keep}"
        if not reason and images.open_files(path, scope.root / "proc"):
            reason = "in use by a process"
        yield Item(kind if path in whole else "leftover", path, disk_usage(path), reason)


def _entry_lock(path: Path) -> Path:
    key = path.name.lstrip(".").partition(".")[0]
    return path.with_name(f".{key}.lock")


def _builds(scope: Scope) -> Iterator[Item]:
    """Yield what killed builds left; every other one empties its directory. What is nobody's build is let be."""
    if scope.build.is_dir():
        for path in sorted(scope.build.iterdir()):
            if path.is_dir() and not path.is_symlink() and {each.name for each in path.iterdir()} <= _BUILD_PARTS:
                yield Item("build", path, disk_usage(path), _busy(images.lock_path(scope.store, path.name), scope.root))


def _logs(scope: Scope) -> Iterator[Item]:
    if not scope.logs.is_dir():
        return
    known = images.names(scope.store)
    for path in sorted(scope.logs.iterdir()):
        match = _LOG.fullmatch(path.name)
        if match and path.is_file():
            age_days = (time.time() - path.stat().st_mtime) / 86400
            reason = f"of image {match['name']}" if match["name"] in known else ""
            if not reason and age_days < LOG_DAYS:
                reason = f"younger than {LOG_DAYS} days"
            yield Item("log", path, disk_usage(path), reason)


def _by_age(directory: Path, patterns: Collection[re.Pattern[str]]) -> list[Path]:
    """Return the entries of ``directory`` that fit a pattern, oldest first."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if any(pattern.fullmatch(path.name) for pattern in patterns)]
    return sorted(found, key=lambda path: (path.lstat().st_mtime_ns, path.name))


def _busy(lock: Path, root: Path) -> str:
    """Return in words that somebody holds ``lock``; empty when nobody does.

    /proc/locks is asked (proc_locks(5)) instead of the lock itself: trying it would make a build that starts at that
    moment believe that another one runs. Inodes alone are compared, since some file systems hide the device; a chance
    match only keeps something for longer.
    """
    try:
        inode = lock.stat().st_ino
        held = (root / "proc/locks").read_text(encoding="ascii")
    except FileNotFoundError:
        return ""
    if any(line.split()[-3].rpartition(":")[2] == str(inode) for line in held.splitlines()):
        return "somebody is making it, or uses it for a build"
    return ""


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold ``lock`` alone. Raises BlockingIOError when somebody else holds it, and OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def collect(scope: Scope, items: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """Remove those of ``items`` that nothing needs. Returns what was removed, and what stayed with the reason.

    Each removal is decided anew under the lock: what became needed since the survey stays. Raises ImageError,
    CleanupError, OSError.
    """
    removed: list[Item] = []
    stayed: list[Item] = []
    for item in items:
        if item.kept:
            continue
        reason = _remove_item(scope, item)
        if reason:
            stayed.append(Item(item.kind, item.path, item.size, reason))
        else:
            removed.append(item)
    return removed, stayed


def _remove_item(scope: Scope, item: Item) -> str:
    """Remove one item under its lock; return why it stayed, or an empty text."""
    name = item.path.parent.name if item.path.parent.parent == scope.store else item.path.name
    if item.kind == "image":
        return _locked_image(scope, name, lambda: _remove_version(scope, name, item.path.name))
    if item.kind == "build":
        return _locked_image(scope, name, lambda: _nothing(build_cleanup.clean_directory(item.path)))
    if item.path.parent.parent == scope.store:
        # A version that was being replaced when its build was killed is put back, not thrown away.
        return _locked_image(scope, name, lambda: _nothing(images.clean(scope.store, name)))
    if item.kind == "log":
        item.path.unlink(missing_ok=True)
        return ""
    lock = item.path.parent / ".lock" if item.path.parent.name == "layers" else _entry_lock(item.path)
    try:
        with _held(lock):
            _remove_tree(item.path)
    except BlockingIOError:
        return "somebody began to use it"
    return ""


def _locked_image(scope: Scope, name: str, action: Callable[[], str]) -> str:
    try:
        with locks.exclusive(images.lock_path(scope.store, name), f"image {name}"):
            return action()
    except locks.LockedError:
        return "a build of this image runs"


def _nothing(_done: object) -> str:
    return ""


def _remove_version(scope: Scope, name: str, version: str) -> str:
    reason = image_references.needed(scope.store, scope.pins, scope.references, scope.root).get((name, version), "")
    if not reason and (scope.store / name / version).is_dir():
        images.remove_version(scope.store, name, version)
    return reason


def _remove_tree(path: Path) -> None:
    """Remove a cache entry in one step for those who look for it: renamed first, so no half of it has its name."""
    gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.partial-{os.getpid()}")
    if path.exists():
        path.rename(gone)
        shutil.rmtree(gone)
