"""A runtime's run-time state on disk: one directory with a lock, the pid and the VMM's sockets.

The lock is a flock(2) taken by `start` on a descriptor that the VMM inherits: it is held exactly as long as the VMM
lives, whatever ends it. Whoever holds the lock may remove everything in the directory, the lock file included; whoever
takes it checks afterwards that the file is still the one in the directory.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from time import monotonic, sleep

from vllmd_hypervisor.config import Identity
from vllmd_hypervisor.errors import LaunchError, reason
from vllmd_hypervisor.tap import remove_tap

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_SETTLE_SECONDS = 1.0
_POLL_SECONDS = 0.02


class AlreadyRunningError(LaunchError):
    """Another VMM holds this runtime's lock."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a runtime's lock. `pidfd` is bound to exactly that process; the owner closes it."""

    pid: int
    backend: str
    pidfd: int


class RunDirectory:
    """Paths and operations of one runtime's directory."""

    def __init__(self, identity: Identity) -> None:
        self.name = identity.name
        self.path = identity.dirpath
        self.lock = self.path / "lock"
        self.pid = self.path / "pid"
        self.qmp_socket = self.path / "qmp.sock"
        self.api_socket = self.path / "api.sock"
        self.console_socket = self.path / "console.sock"
        self.vmm_link = self.path / "vllmd-hypervisor"
        self.tap_marker = self.path / "tap"

    def sockets(self) -> dict[str, Path]:
        """Return the sockets that exist now, by purpose."""
        known = {"qmp": self.qmp_socket, "api": self.api_socket, "console": self.console_socket}
        return {purpose: path for purpose, path in known.items() if path.is_socket()}

    def acquire(self) -> int:
        """Make the directory, take the lock and return its descriptor; AlreadyRunningError when a VMM holds it."""
        deadline = monotonic() + _SETTLE_SECONDS
        while True:
            self._make_directory()
            try:
                descriptor = self.try_lock()
            except OSError as error:
                raise LaunchError(f"cannot lock {self.lock}: {reason(error)}") from None
            if descriptor is not None:
                return descriptor
            # `status` holds the lock for an instant; a removal changes the file under us. Neither lasts.
            if self.lock.exists():
                self.refuse_running()
            if monotonic() > deadline:
                raise LaunchError(f"{self.lock} stays locked by a process that is no VMM of this runtime")
            sleep(_POLL_SECONDS)

    def refuse_running(self) -> None:
        """Raise AlreadyRunningError when a VMM of this runtime lives."""
        holder = self.find_holder()
        if holder:
            os.close(holder.pidfd)
            raise AlreadyRunningError(f"{self.name} is already running (pid {holder.pid}); stop it first")

    def try_lock(self) -> int | None:
        """Return a descriptor that holds the lock, or None when it is held or was just removed."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        except FileNotFoundError:  # the directory was removed just now
            return None
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self.lock.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def record(self, descriptor: int, backend: str) -> None:
        """Write who runs: this process, which becomes the VMM. `pid` is for people; the lock file decides."""
        pid = os.getpid()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": pid, "backend": backend}).encode() + b"\n", 0)
        partial = self.path / ".pid.partial"
        partial.write_text(f"{pid}\n", encoding="ascii")
        partial.replace(self.pid)

    def find_holder(self) -> Holder | None:
        """Return the live process that holds the lock, or None; LaunchError when that cannot be told."""
        deadline = monotonic() + _SETTLE_SECONDS
        while True:
            try:
                descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise LaunchError(f"cannot open {self.lock}: {reason(error)}") from None
            try:
                if _is_free(descriptor):
                    return None
                holder = _read_holder(descriptor)
            finally:
                os.close(descriptor)
            if holder:
                return holder
            if monotonic() > deadline:
                raise LaunchError(f"{self.lock} is held, but not by the process written in it")
            sleep(_POLL_SECONDS)

    def clear(self) -> None:
        """Remove what a dead VMM left, except the lock file. Call it only with the lock held."""
        if self.tap_marker.exists():
            remove_tap(self.tap_marker.read_text(encoding="ascii").strip())
        for path in (self.qmp_socket, self.api_socket, self.console_socket, self.vmm_link, self.tap_marker, self.pid):
            path.unlink(missing_ok=True)

    def remove(self, descriptor: int) -> None:
        """Remove everything, with the lock held by `descriptor`, and release it. What someone else put there stays."""
        self.clear()
        self.lock.unlink(missing_ok=True)
        with suppress(OSError):  # not ours to remove (systemd's RuntimeDirectory=), or not empty
            self.path.rmdir()
        os.close(descriptor)

    def remove_if_free(self) -> None:
        """Remove what a dead VMM left, unless a new one took the runtime over meanwhile."""
        if not self.lock.exists():
            return
        descriptor = self.try_lock()
        if descriptor is not None:
            self.remove(descriptor)

    def _make_directory(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            found = self.path.lstat()
        except OSError as error:
            raise LaunchError(f"cannot make the run directory {self.path}: {reason(error)}") from None
        if not S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & (S_IWGRP | S_IWOTH):
            raise LaunchError(f"{self.path} is not a directory that only this user may write; remove it")


def _is_free(descriptor: int) -> bool:
    try:
        flock(descriptor, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(descriptor: int) -> Holder | None:
    """Return the process named in a held lock file, once it is proven to have that very file open."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        pid, backend = int(record["pid"]), str(record["backend"])
        pidfd = os.pidfd_open(pid)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None
    # The pidfd came first: if the process has the lock file open now, the pidfd is that process and no successor.
    if _has_open(pid, os.fstat(descriptor)):
        return Holder(pid, backend, pidfd)
    os.close(pidfd)
    return None


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        raise LaunchError(f"cannot look at process {pid}: {reason(error)}; run this as root or as its owner") from None
    for entry in entries:
        with suppress(OSError):
            if os.path.samestat(entry.stat(), wanted):
                return True
    return False
