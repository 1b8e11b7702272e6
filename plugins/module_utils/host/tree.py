# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Files below a root path: ``/`` on a live host, the directory of a captured one in tests.

No method raises for what a file holds or for a file that cannot be read: the answer is None (or nothing), and
`Tree.troubles` keeps what was there and could not be used. Paths are relative to the root, without a leading slash.
What a directory of plain files cannot say about a host (owners of device nodes, free space, whether KVM made a
virtual machine) stands in ``.captured.json`` beside a captured tree's files.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import Any

from .model import DeviceNode, Trouble

#: What plain absence looks like: no such file, device gone, attribute without a value on this hardware.
_ABSENT = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENXIO,
    errno.EOPNOTSUPP,
    errno.ESRCH,
    errno.ENODATA,
    errno.EISDIR,
    errno.ELOOP,
}
_MOST_BYTES = 16 * 1024 * 1024
_MOST_TROUBLES = 100
_TRUE, _FALSE = {"1", "Y", "y", "on"}, {"0", "N", "n", "off"}
_BDF = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
CAPTURED = ".captured.json"


class Tree:
    """Reads files below ``root``; see the module for what happens to those that cannot be read."""

    def __init__(self, root: str = "/") -> None:
        self._prefix = "" if os.path.realpath(root) == "/" else os.path.realpath(root)
        self.is_live = self._prefix == ""
        self._troubles: dict[str, Trouble] = {}
        self._captured: dict[str, Any] = {} if self.is_live else self._load_captured()

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Return what could not be used, by path."""
        return tuple(self._troubles[path] for path in sorted(self._troubles))

    def trouble(self, path: str, reason: str) -> None:
        """Remember that the file at ``path`` was there and why it was of no use."""
        if len(self._troubles) < _MOST_TROUBLES:
            self._troubles.setdefault(path, Trouble(f"/{path}", reason))

    def full(self, path: str) -> str:
        """Return the real path of ``path``."""
        return f"{self._prefix}/{path}"

    def content(self, path: str, most: int = _MOST_BYTES, quiet: bool = False) -> bytes | None:
        """Return up to ``most`` bytes of a file; ``quiet`` where no permission is no trouble."""
        try:
            # O_NONBLOCK: a FIFO where a file should be must not stop the reader.
            descriptor = os.open(f"{self._prefix}/{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            if not quiet:
                self._failed(path, error)
            return None
        try:
            data = os.read(descriptor, min(most, 65536))
            # An attribute of sysfs is shorter than a page and comes whole.
            if len(data) < 4096 and path.startswith("sys/"):
                return data
            parts = [data]
            size = len(data)
            while data and size < most:
                data = os.read(descriptor, min(most - size, 1 << 20))
                parts.append(data)
                size += len(data)
            return b"".join(parts)
        except OSError as error:
            self._failed(path, error)
            return None
        finally:
            os.close(descriptor)

    def text(self, path: str, most: int = _MOST_BYTES) -> str | None:
        """Return a file's text without white space around it; bytes that are not UTF-8 are replaced."""
        data = self.content(path, most)
        return None if data is None else data.decode("utf-8", "replace").strip().replace("\0", "")

    def word(self, path: str) -> str | None:
        """Return a file's text, None when it is empty."""
        return self.text(path) or None

    def lines(self, path: str, most: int = _MOST_BYTES) -> list[str]:
        """Return a file's lines."""
        return (self.text(path, most) or "").splitlines()

    def integer(self, path: str, base: int = 10) -> int | None:
        """Return the number in a file; garbage is a trouble. With base 16 a leading ``0x`` may stand."""
        text = self.word(path)
        if text is None:
            return None
        number = parse_integer(text, base)
        if number is None:
            self.trouble(path, f"found {text[:40]!r}, expected a number")
        return number

    def count(self, path: str) -> int | None:
        """Return the number in a file that cannot be negative."""
        number = self.integer(path)
        return number if number is None or number >= 0 else None

    def flag(self, path: str) -> bool | None:
        """Return a switch: 1, Y and on are true, 0, N and off are false."""
        text = self.word(path)
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        if text is not None:
            self.trouble(path, f"found {text[:40]!r}, expected a switch (0 or 1, N or Y)")
        return None

    def cpus(self, path: str) -> tuple[int, ...]:
        """Return a list of CPU numbers such as ``0-3,8``."""
        text = self.word(path)
        if text is None:
            return ()
        numbers = parse_cpu_list(text)
        if numbers is None:
            self.trouble(path, f"found {text[:40]!r}, expected CPU numbers such as 0-3,8")
            return ()
        return numbers

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; none when it cannot be read."""
        try:
            return sorted(os.listdir(f"{self._prefix}/{path}"))
        except (OSError, ValueError) as error:
            self._failed(path, error)
            return []

    def exists(self, path: str) -> bool:
        """Return whether something is there, also at the end of a link."""
        return os.access(f"{self._prefix}/{path}", os.F_OK)

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory."""
        return os.path.isdir(f"{self._prefix}/{path}")

    def link(self, path: str) -> str | None:
        """Return what a symbolic link holds."""
        try:
            return os.readlink(f"{self._prefix}/{path}")
        except (OSError, ValueError) as error:
            self._failed(path, error)
            return None

    def link_name(self, path: str) -> str | None:
        """Return the last part of what a symbolic link holds: the driver's name of a ``driver`` link."""
        target = self.link(path)
        return None if target is None else target.rstrip("/").rpartition("/")[2] or None

    def link_path(self, path: str) -> str | None:
        """Return where a symbolic link leads, relative to the root; links further on the way are not followed."""
        target = self.link(path)
        if target is None:
            return None
        if target.startswith("/"):
            return os.path.normpath(target).lstrip("/")
        return os.path.normpath(os.path.join(os.path.dirname(path), target)).lstrip("/")

    def node(self, path: str) -> DeviceNode | None:
        """Return a device node's permissions and owner."""
        captured = self._part("nodes").get(path)
        if isinstance(captured, dict):
            mode, uid, gid = (captured.get(key) for key in ("mode", "uid", "gid"))
            if isinstance(mode, int) and isinstance(uid, int) and isinstance(gid, int):
                return DeviceNode(f"/{path}", mode, uid, gid)
        try:
            found = os.stat(f"{self._prefix}/{path}")
        except (OSError, ValueError) as error:
            self._failed(path, error)
            return None
        return DeviceNode(f"/{path}", found.st_mode & 0o7777, found.st_uid, found.st_gid)

    def space(self, path: str) -> tuple[int, int, int] | None:
        """Return (size in bytes, bytes for ordinary users, inodes for them) of the file system at ``path``."""
        if not self.is_live:
            captured = self._part("space").get(path)
            if isinstance(captured, list) and len(captured) == 3 and all(isinstance(each, int) for each in captured):
                return captured[0], captured[1], captured[2]
            return None
        try:
            found = os.statvfs(f"/{path}")
        except OSError as error:
            self._failed(path, error)
            return None
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_favail

    def captured(self, name: str) -> Any:
        """Return what was noted when this tree was captured, None on a live host."""
        return self._captured.get(name)

    def _part(self, name: str) -> dict[str, Any]:
        part = self._captured.get(name)
        return part if isinstance(part, dict) else {}

    def _load_captured(self) -> dict[str, Any]:
        try:
            with open(f"{self._prefix}/{CAPTURED}", encoding="utf-8") as stream:
                found = json.load(stream)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _failed(self, path: str, error: Exception) -> None:
        number = error.errno if isinstance(error, OSError) else None
        if number not in _ABSENT:
            self.trouble(path, os.strerror(number) if number else str(error))


def parse_integer(text: str, base: int = 10) -> int | None:
    """Return the number that ``text`` is, None when it is none. Python's underscores and signs of plus are none."""
    try:
        return None if "_" in text or text.startswith("+") else int(text, base)
    except ValueError:
        return None


def parse_cpu_list(text: str) -> tuple[int, ...] | None:
    """Return the numbers of ``0-3,8`` in order, None when it is no such list (or one beyond any machine)."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = parse_integer(first)
        end = parse_integer(last) if dash else start
        if start is None or end is None or not 0 <= start <= end < 65536:
            return None
        numbers.update(range(start, end + 1))
    return tuple(sorted(numbers))


def is_bdf(text: str) -> bool:
    """Return whether ``text`` is a full PCI address."""
    return _BDF.fullmatch(text) is not None


def bdfs_in(path: str) -> tuple[str, ...]:
    """Return the PCI addresses among the parts of a sysfs path, nearest the root first."""
    return tuple(part for part in path.split("/") if ":" in part and _BDF.fullmatch(part))
