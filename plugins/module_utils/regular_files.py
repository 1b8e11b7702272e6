# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read small files from places that others may write to."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path


def read_regular(path: Path, max_bytes: int, check: Callable[[os.stat_result], None] | None = None) -> bytes:
    """Return the content of a regular file of at most ``max_bytes``. Raises OSError, and what ``check`` raises.

    What is checked is what is read: ``check`` gets the status of the open file. A device or a pipe is not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(f"no possible path ({error})") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if check:
            check(status)
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"more than {max_bytes} bytes")
    return content
