"""A test in systemd's place: the receiving end of the readiness protocol (sd_notify(3))."""

from __future__ import annotations

import socket
import time
from pathlib import Path


class Systemd:
    """The receiving end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(str(path))
        self.heard: list[str] = []

    def wait_for(self, line: str, seconds: float = 60) -> str:
        """Wait for a message with such a line; return its STATUS."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.channel.settimeout(left)
            lines = self.channel.recv(4096).decode().splitlines()
            self.heard += lines
            if line in lines:
                return next((each.removeprefix("STATUS=") for each in lines if each.startswith("STATUS=")), "")
        raise AssertionError(f"no {line} in {seconds} s; heard {self.heard}")

    def close(self) -> None:
        """Stop listening."""
        self.channel.close()
