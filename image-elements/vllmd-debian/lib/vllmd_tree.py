"""The canonical description of a directory tree, and one digest over it.

An entry says everything that a guest can see of a path, but times: its kind, permissions, owner, size, content (or link
target, or device number) and extended attributes, file capabilities among them. Which paths are hard links of one file
counts too. The same tree gives the same digest wherever it lies: on the builder, in a mounted system image, unpacked
from an archive.

Usage: vllmd_tree.py TREE [NAME]   print the digest, or {"digest": ...} as JSON when any NAME is given
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

#: What mkfs.ext4 adds to every file system; it is no part of the tree.
NOT_PART = frozenset({"lost+found"})

#: path, kind, mode (octal), uid, gid, size in bytes, content, extended attributes (name -> hex)
Entry = tuple[str, str, str, int, int, int, str, dict[str, str]]


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative path and status of ``root`` itself (``.``) and all below, sorted, on one file system."""
    top = root.lstat()
    yield ".", top

    def below(directory: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        for path in sorted(directory.iterdir(), key=lambda path: os.fsencode(path.name)):
            if not prefix and path.name in NOT_PART:
                continue
            status = path.lstat()
            yield prefix + path.name, status
            if stat.S_ISDIR(status.st_mode) and status.st_dev == top.st_dev:
                yield from below(path, f"{prefix}{path.name}/")

    yield from below(root, "")


def entries(root: Path) -> Iterator[Entry]:
    """Yield the entries of the tree ``root``, sorted by path. Raises OSError."""
    first: dict[tuple[int, int], str] = {}
    for relative, status in walk(root):
        path = root / relative
        kind, size, content = "other", 0, ""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            kind, size = "file", status.st_size
            known = first.setdefault((status.st_dev, status.st_ino), relative)
            if status.st_nlink > 1 and known != relative:
                kind, content = "hardlink", known
            else:
                with path.open("rb") as stream:
                    content = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        elif stat.S_ISLNK(mode):
            kind, content = "link", str(path.readlink())
        elif stat.S_ISDIR(mode):
            kind = "directory"
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            kind = "character" if stat.S_ISCHR(mode) else "block"
            content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        elif stat.S_ISFIFO(mode):
            kind = "fifo"
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(names)}
        # A link's permissions mean nothing and differ between kernels.
        octal = "" if kind == "link" else f"{stat.S_IMODE(mode):04o}"
        yield (relative, kind, octal, status.st_uid, status.st_gid, size, content, attributes)


def line(entry: Entry) -> str:
    """Return the one way to write an entry."""
    return json.dumps(entry, separators=(",", ":"), sort_keys=True) + "\n"


def digest(root: Path) -> str:
    """Return ``sha256:<hex>`` over the lines of all entries. Raises OSError."""
    total = hashlib.sha256()
    for entry in entries(root):
        total.update(line(entry).encode())
    return "sha256:" + total.hexdigest()


if __name__ == "__main__":
    found = digest(Path(sys.argv[1]))
    print(json.dumps({"digest": found}) if len(sys.argv) > 2 else found)
