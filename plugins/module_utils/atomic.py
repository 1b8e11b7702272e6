# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write files and links so that a reader, and the disk after a power cut, holds the old or the new, never a part."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make ``path`` and its missing parents, readable for everyone whatever the umask says. Raises OSError."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def fsync_directory(path: Path) -> None:
    """Make the directory's own entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make every regular file and directory below ``root``, and ``root`` itself, durable."""
    for directory, _names, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            if stat.S_ISREG(path.lstat().st_mode):
                fsync_file(path)
        fsync_directory(Path(directory))


def sibling(path: Path) -> Path:
    """Return the temporary name beside ``path`` that this process uses; the same for every write of one process."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def replace_file(new: Path, path: Path) -> None:
    """Put the complete file ``new`` (on the same filesystem) in the place of ``path``, durably."""
    fsync_file(new)
    new.replace(path)
    fsync_directory(path.parent)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write ``content`` to ``path`` with permission bits ``mode``; an existing file is replaced as a whole.

    Raises OSError, and then leaves no temporary file.
    """
    new = sibling(path)
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        replace_file(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_link(path: Path, target: str) -> None:
    """Point the symbolic link ``path`` at ``target``; readers see the old or the new target."""
    new = sibling(path)
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(path)
        fsync_directory(path.parent)
    finally:
        new.unlink(missing_ok=True)
