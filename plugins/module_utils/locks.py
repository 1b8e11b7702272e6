# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One at a time: an advisory lock whose refusal names the holder and for how long it has held it.

Every lock of the collection and of the command line is one of these.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import atomic

POLL_SECONDS = 0.2


class LockedError(RuntimeError):
    """Another process holds the lock; the message is one line that names it, and for how long it has held the lock."""


@contextmanager
def exclusive(path: Path, purpose: str, wait_seconds: float = 0, command: str = "") -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; ``purpose`` says what for, such as "image vllmd-cpu".

    ``command`` is what others are told that this process does. Waits up to ``wait_seconds`` for another holder. The
    kernel releases the lock when its process ends, however it ends, so nothing has to be cleaned by hand. Raises
    LockedError, OSError.
    """
    atomic.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        _acquire(descriptor, path, purpose, wait_seconds)
        _sign(descriptor, command)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, purpose: str, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                continue
            raise LockedError(
                f"{purpose} is in use by {_holder(descriptor)} (lock {path}); wait for it to end, or stop that process"
            ) from None
        return


def _sign(descriptor: int, command: str) -> None:
    """Say in the file who holds the lock. On a full disk it is held all the same, by nobody that others could name."""
    owner = {"pid": os.getpid(), "user": _user(), "host": socket.gethostname(), "since": time.time()}
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, json.dumps(owner | ({"command": command} if command else {})).encode(), 0)
    except OSError:
        os.ftruncate(descriptor, 0)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return f"uid {os.getuid()}"


def _holder(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        seconds = time.time() - float(owner["since"])
        who = f"process {int(owner['pid'])} of {owner['user']}@{owner['host']}"
        command = f"'{owner['command']}', " if owner.get("command") else ""
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "another process"
    # Somebody has set the clock back meanwhile, or the holder's machine has another one.
    age = f"for {duration(seconds)}" if seconds >= 0 else "since a time that is ahead of this machine's clock"
    return f"{command}{who}, {age}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 0.4 -> "0.4s", 75 -> "1m15s", 7300 -> "2h01m"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes_left:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
