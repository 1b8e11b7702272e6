# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The few operations on /sys that binding needs, as an interface, and the one that works on the running kernel.

Rules: Documentation/ABI/testing/sysfs-bus-pci (bind, unbind, driver_override, drivers_probe). All paths are relative
to /sys. A write to `unbind` returns when the driver has let go, which may be never: a driver can wait in the kernel
for its last user, where no signal reaches it. So every write happens in a child process that is left behind when it
does not end in time.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

PCI = "bus/pci"
_PAGE_BYTES = 4096
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.05
_MODPROBE_SECONDS = 60


class Sysfs(Protocol):
    """What reads and changes the binding of PCI devices."""

    def read(self, path: str) -> str | None:
        """Return the text of a file without blanks around it; None when it cannot be read."""

    def link(self, path: str) -> str | None:
        """Return the last part of a symbolic link's target; None when there is no such link."""

    def entries(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; none when there is no such directory."""

    def write(self, path: str, text: str, timeout_seconds: float) -> None:
        """Write ``text`` at once. Raises OSError with the kernel's errno; TimeoutError when it does not return."""

    def load_module(self, name: str) -> None:
        """Load a kernel module. Raises OSError; its strerror is one line that says why."""

    def now(self) -> float:
        """Return seconds of a clock that only goes forward."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class RealSysfs:
    """The running kernel's /sys, or a tree like it."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._sys = root / "sys"

    def read(self, path: str) -> str | None:
        """Return the text of a file without blanks around it; None when it cannot be read."""
        try:
            descriptor = os.open(self._sys / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            # An attribute is at most a page; what is longer is none, and may have no end.
            return os.read(descriptor, _PAGE_BYTES).decode("utf-8", "replace").strip()
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def link(self, path: str) -> str | None:
        """Return the last part of a symbolic link's target; None when there is no such link."""
        try:
            return (self._sys / path).readlink().name
        except OSError:
            return None

    def entries(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; none when there is no such directory."""
        try:
            return sorted(entry.name for entry in (self._sys / path).iterdir())
        except OSError:
            return []

    def write(self, path: str, text: str, timeout_seconds: float) -> None:
        """Write ``text`` in a child process. Raises OSError with the kernel's errno; TimeoutError."""
        target = str(self._sys / path)
        pid = os.fork()
        if pid == 0:
            os._exit(_write_alone(target, text.encode()))
        status = self._wait(pid, timeout_seconds)
        if status is None:
            raise TimeoutError(errno.ETIMEDOUT, f"the kernel has not returned within {timeout_seconds:g} s", target)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            code = code if code > 0 else errno.EINTR
            raise OSError(code, os.strerror(code), target)

    def load_module(self, name: str) -> None:
        """Load a kernel module with modprobe, which returns at once when it is loaded or built in."""
        try:
            done = subprocess.run(
                ["modprobe", "--", name], check=False, capture_output=True, text=True, timeout=_MODPROBE_SECONDS
            )
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "modprobe is not installed; install the package kmod", name) from None
        except subprocess.TimeoutExpired:
            raise TimeoutError(errno.ETIMEDOUT, f"modprobe has not returned in {_MODPROBE_SECONDS} s", name) from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"modprobe ended with {done.returncode}"
            raise OSError(errno.ENOENT, said, name)

    def now(self) -> float:
        """Return seconds of a clock that only goes forward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    @staticmethod
    def _wait(pid: int, timeout_seconds: float) -> int | None:
        deadline, pause = time.monotonic() + timeout_seconds, _FIRST_PAUSE_SECONDS
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() >= deadline:
                return None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _write_alone(target: str, content: bytes) -> int:
    """Write ``content`` with one system call; returns 0 or the errno. Runs in the child alone.

    The child keeps none of its parent's descriptors: one that never ends must hold neither a lock nor the pipe on
    which somebody waits for the parent's output.
    """
    try:
        for path in list(Path("/proc/self/fd").iterdir()):
            with suppress(OSError):  # the directory's own descriptor is closed already
                os.close(int(path.name))
        for _descriptor in range(3):
            os.open(os.devnull, os.O_RDWR)
        os.write(os.open(target, os.O_WRONLY), content)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
