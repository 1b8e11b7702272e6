# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Let a signal end a piece of work in order: what it began is undone before the process ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A signal asks the build to end; not an Exception, so that no handler of errors swallows it."""


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Turn signals that end a process into Interrupted while the block runs."""

    def handler(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    with _handlers(handler):
        yield


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Let the block run to its end whatever signal comes."""
    with _handlers(signal.SIG_IGN):
        yield


@contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
