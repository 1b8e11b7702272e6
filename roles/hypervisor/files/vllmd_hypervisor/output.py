"""Lines for people, on standard error. Each is one write, so that lines of several processes never mix."""

import os

from vllmd_hypervisor.errors import PROGRAM, one_line


def say(text: str) -> None:
    """Write one line, `vllmd-hypervisor: text`; a closed standard error is not an error."""
    write_line(2, f"{PROGRAM}: {one_line(text)}")


def write_line(descriptor: int, text: str) -> None:
    """Write one line of any length."""
    data = text.encode("utf-8", "replace") + b"\n"
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return
