# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One change of an inventory's hosts at a time: a lock whose refusal names owner, command and age."""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import places
from .errors import BUSY, CtlError


def lock_path(inventory: Path) -> Path:
    """Return the lock file: beside the hosts, so that all who use the inventory meet; else among one's own state."""
    directory = inventory if inventory.is_dir() else inventory.parent
    if os.access(directory, os.W_OK):
        return directory / ".vllmdctl.lock"
    name = hashlib.sha256(str(inventory.resolve()).encode()).hexdigest()[:16]
    return places.make_private_directory(places.state_directory()) / f"{name}.lock"


@contextmanager
def exclusive(inventory: Path, command: str) -> Iterator[None]:
    """Hold the inventory's lock while the block runs. Raises CtlError when somebody else does.

    The kernel releases it when this process ends, however it ends; nothing has to be cleaned by hand.
    """
    path = lock_path(inventory)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise CtlError(f"cannot open the lock {path}: {error.strerror}; correct its owner or mode") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CtlError(f"{inventory} is in use by {_holder(descriptor)}; wait for it to end", BUSY) from None
        owner = {"user": _user(), "host": socket.gethostname(), "pid": os.getpid(), "command": command}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner | {"since": time.time()}).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return f"uid {os.getuid()}"


def _holder(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        age = duration(max(0.0, time.time() - float(owner["since"])))
        who = f"{owner['user']}@{owner['host']}, process {int(owner['pid'])}"
        return f"'vllmdctl {owner['command']}' of {who}, for {age}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another vllmdctl"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 0.4 -> "0.4s", 75 -> "1m15s", 7300 -> "2h01m"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes_left:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
