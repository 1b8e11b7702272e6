"""Write a file so that nobody ever reads half of it."""
# Read at boot on an emulated CPU, where pathlib costs more than all of this:
# ruff: noqa: PTH105, PTH123

from __future__ import annotations

import os


def replace(path: str, text: str, mode: int = 0o600) -> None:
    """Write a file so that nobody ever reads half of it."""
    partial = f"{path}.{os.getpid()}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(stream.fileno(), mode)
    os.replace(partial, path)
