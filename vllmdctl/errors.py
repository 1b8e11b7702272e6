# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How a command ends: its exit status, and one line that says what, where, why, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE = 0
FAILED = 1
NOT_READY = 2  # precheck: a host lacks what runtimes need
NOT_RUNNING = 3  # status: as an init script says it
UNKNOWN = 4  # status: it can't be told
BUSY = 5  # another vllmdctl holds the lock
UNREACHABLE = 6  # a host, or the API of a runtime
USAGE = 64  # sysexits.h EX_USAGE: the command line is wrong
REFUSED = 65  # sysexits.h EX_DATAERR: a manifest or an inventory is wrong
INTERRUPTED = 130  # 128 + SIGINT


class CtlError(Exception):
    """A command that can't be done: a message for a person, and the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def nearest(wanted: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` or what there is, to end a message about something unknown."""
    names = sorted(set(known))
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if not names:
        return "; there is none"
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"; there is {shown}"
