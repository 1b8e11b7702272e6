# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The one error of this package."""

from __future__ import annotations

import sys
from typing import TextIO


class KeepingError(ValueError):
    """What is wrong with a member, a snapshot or what was given: one line for a person, without secrets."""


def say(line: str, stream: TextIO | None = None) -> None:
    """Write a line of a program that members run, to its standard output; modules have theirs as their result."""
    stream = stream or sys.stdout
    stream.write(f"{line}\n")
    stream.flush()
