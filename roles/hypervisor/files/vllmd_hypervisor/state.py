"""A runtime's run-time state on disk: one directory with a lock, the pid and the VMM's sockets.

The lock is a POSIX record lock (fcntl(2)) that `start` takes and keeps across exec, on a descriptor that the VMM
inherits. So it is held exactly as long as the VMM lives, whatever ends it, and by nobody else: no child inherits it.
Unlike with flock(2) the kernel tells who holds it, so `stop` and `status` never trust a pid from a file, and need not
look into /proc, which a hardened unit hides. The price: who holds the lock must not open and close the file again.

Whoever holds the lock may remove everything in the directory, the lock file included; whoever takes it checks
afterwards that the file is still the one in the directory.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_GETLK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, fcntl, lockf
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from struct import Struct
from time import monotonic, sleep

from vllmd_hypervisor.config import Identity
from vllmd_hypervisor.errors import LaunchError, reason
from vllmd_hypervisor.tap import remove_tap

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_SETTLE_SECONDS = 1.0
_POLL_SECONDS = 0.02
_STRUCT_FLOCK = Struct("hhqqi0q")  # l_type, l_whence, l_start, l_len, l_pid, on 64-bit Linux


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
        self.health = self.path / "health.json"
        self.health_partial = self.path / ".health.partial"

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
            # A VMM holds it, or someone who cleans up after one, which does not last.
            self.refuse_running()
            if monotonic() > deadline:
                raise LaunchError(f"{self.lock} keeps being taken by others; try again")
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
            lockf(descriptor, LOCK_EX | LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self.lock.stat()):
                return descriptor
        except (BlockingIOError, PermissionError, FileNotFoundError):  # fcntl(2): EAGAIN or EACCES where it is locked
            pass
        os.close(descriptor)
        return None

    def record(self, descriptor: int, backend: str) -> None:
        """Write what runs here: this process becomes the VMM. `pid` is for people; the lock decides."""
        pid = os.getpid()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": pid, "backend": backend}).encode() + b"\n", 0)
        partial = self.path / ".pid.partial"
        partial.unlink(missing_ok=True)
        partial.touch(FILE_MODE)
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
                pid = _locking_pid(descriptor)
                if pid is None:
                    return None
                holder = _identify(descriptor, pid)
            finally:
                os.close(descriptor)
            if holder:
                return holder
            if monotonic() > deadline:
                raise LaunchError(f"{self.lock} is held by pid {pid}, which is no VMM that start made here")
            sleep(_POLL_SECONDS)

    def clear(self) -> None:
        """Remove what a dead VMM left, except the lock file. Call it only with the lock held."""
        if self.tap_marker.exists():
            remove_tap(self.tap_marker.read_text(encoding="ascii").strip())
        sockets = (self.qmp_socket, self.api_socket, self.console_socket)
        for path in (*sockets, self.vmm_link, self.tap_marker, self.health_partial, self.health, self.pid):
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


def _locking_pid(descriptor: int) -> int | None:
    """Return the pid of the process that holds the lock (0 when it is in another pid namespace), or None."""
    answer = fcntl(descriptor, F_GETLK, _STRUCT_FLOCK.pack(F_WRLCK, os.SEEK_SET, 0, 0, 0))
    held = _STRUCT_FLOCK.unpack(answer)  # type, whence, start, length, pid
    return None if held[0] == F_UNLCK else held[4]


def _identify(descriptor: int, pid: int) -> Holder | None:
    """Return the locking process as a Holder, or None when it is no VMM or ended meanwhile."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        backend = str(record["backend"])
        if record["pid"] != pid:  # someone who cleans up after the VMM in the record
            return None
        pidfd = os.pidfd_open(pid)
    except (ValueError, KeyError, TypeError, OSError):
        return None
    # It still holds the lock after the pidfd was taken, so the pidfd is that process and no successor with its pid.
    if _locking_pid(descriptor) == pid:
        return Holder(pid, backend, pidfd)
    os.close(pidfd)
    return None
