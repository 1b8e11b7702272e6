# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One build at a time: an advisory lock whose refusal names the holder."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from . import atomic

POLL_SECONDS = 0.2


class LockedError(RuntimeError):
    """Another process holds the lock; the message is one line that names its pid and since when."""


@contextmanager
def exclusive(path: Path, purpose: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; ``purpose`` says what for, such as "image vllmd-cpu".

    Waits up to ``wait_seconds`` for another holder. The kernel releases the lock when its process ends, however it
    ends, so nothing has to be cleaned by hand. Raises LockedError, OSError.
    """
    atomic.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, path, purpose, wait_seconds)
        os.ftruncate(descriptor, 0)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": since}).encode(), 0)
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


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
