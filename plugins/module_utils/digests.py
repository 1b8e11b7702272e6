# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""SHA-256 digests of files and directory trees, and a cache so that gigabytes are read once."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from . import atomic

FileDigest = Callable[[Path], str]


def digest_file(path: Path) -> str:
    """Return the file's digest as ``sha256:<hex>``. Raises OSError."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def digest_text(text: str) -> str:
    """Return the digest of ``text`` as ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def is_noise(name: str) -> bool:
    """Tell whether a file cannot change an image: documentation and Python's caches."""
    return name == "__pycache__" or name.endswith(".pyc") or name.upper().startswith("README")


def digest_tree(root: Path, file_digest: FileDigest = digest_file) -> str:
    """Return one digest over the names, kinds, execute bits and contents of everything below ``root``.

    Only the execute bit of the permissions counts: it is what a git checkout carries, the rest is the umask of who
    made it. READMEs and Python caches do not count. Raises OSError; ``root`` that is a file gives its own digest.
    """
    if root.is_file():
        return file_digest(root)
    lines = []
    for directory, names, files in os.walk(root, onerror=_raise):
        names[:] = sorted(name for name in names if not is_noise(name))
        for name in [*names, *files]:
            if is_noise(name):
                continue
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                entry = ["link", str(path.readlink())]
            elif stat.S_ISDIR(mode):
                entry = ["directory"]
            elif stat.S_ISREG(mode):
                entry = ["program" if mode & 0o111 else "file", file_digest(path)]
            else:
                entry = ["special"]
            lines.append(json.dumps([str(path.relative_to(root)), *entry]))
    return digest_text("\n".join(sorted(lines)))


def _raise(error: OSError) -> None:
    raise error


def _identity(path: Path) -> list[object]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


class DigestCache:
    """Remembers file digests by path, size, times and inode, so that an unchanged file is not read again.

    A file counts as unchanged when its size, modification time, change time (which no ordinary program can set back),
    inode and device are the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[object]] = {}
        self._used: dict[str, list[object]] = {}
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}  # a cache that cannot be read is an empty cache
        if isinstance(known, dict):
            self._known = {key: value for key, value in known.items() if isinstance(value, list)}
        self._loaded = dict(self._known)

    def digest(self, path: Path) -> str:
        """Return the file's digest, from memory when the file is unchanged. Raises OSError."""
        # Taken before the file is read: a change while it is read then shows at the next call.
        identity = _identity(path)
        entry = self._known.get(str(path.absolute()))
        if entry is None or entry[1:] != identity:
            entry = [digest_file(path), *identity]
        self._remember(path, entry)
        return str(entry[0])

    def record(self, path: Path, digest: str) -> None:
        """Remember ``digest`` for a file that was read under another name. Raises OSError."""
        self._remember(path, [digest, *_identity(path)])

    def _remember(self, path: Path, entry: list[object]) -> None:
        self._known[str(path.absolute())] = entry
        self._used[str(path.absolute())] = entry

    def save(self) -> None:
        """Write the cache when it changed; entries of files that are gone are dropped. Raises OSError."""
        kept = {key: value for key, value in self._known.items() if key in self._used or Path(key).exists()}
        if kept != self._loaded:
            atomic.make_directory(self._path.parent)
            atomic.write_file(self._path, json.dumps(kept, indent=0, sort_keys=True).encode(), 0o600)
            self._loaded = kept
