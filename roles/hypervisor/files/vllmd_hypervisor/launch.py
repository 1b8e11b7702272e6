"""What `start` hands to the VMM besides words: open descriptors, and how they are opened."""

import os
from dataclasses import dataclass
from fcntl import F_GETFL, fcntl
from pathlib import Path
from stat import S_ISSOCK

from vllmd_hypervisor.config import INHERITED_STDOUT, PREFIX, Config
from vllmd_hypervisor.errors import LaunchError, reason
from vllmd_hypervisor.machine import QEMU, Machine
from vllmd_hypervisor.state import FILE_MODE, RunDirectory
from vllmd_hypervisor.tap import open_tap

STDOUT = 1
_INHERITED = {Path(INHERITED_STDOUT): STDOUT, Path("/dev/stderr"): 2}
_LOG_MODE = 0o640
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4  # linux/prctl.h


@dataclass
class Descriptors:
    """Descriptors for the VMM; -1 where there is none. A log that is a socket cannot be made write-only."""

    lock: int = -1
    log: int = -1
    log_is_socket: bool = False
    tap: int = -1
    vhost: int = -1

    def opened(self) -> list[int]:
        """Return those that are open."""
        return [descriptor for descriptor in (self.lock, self.log, self.tap, self.vhost) if descriptor >= 0]


def open_log(config: Config, descriptors: Descriptors) -> None:
    """Open the guest console's log, or take the inherited stdout as it is.

    /dev/stdout is never reopened: under systemd it is a socket, which cannot be. An inherited descriptor that is open
    for reading too (a terminal) is reopened for writing alone, because QEMU matches access modes exactly.
    """
    inherited = _INHERITED.get(config.log_filepath)
    if inherited is None:
        # Not blocking: a named pipe that nobody reads must be an error, not a start that hangs.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            descriptors.log = os.open(config.log_filepath, flags, _LOG_MODE)
            os.set_blocking(descriptors.log, True)
        except OSError as error:
            raise LaunchError(f"{PREFIX}LOG_FILEPATH: cannot write {config.log_filepath}: {reason(error)}") from None
        return
    descriptors.log_is_socket = S_ISSOCK(os.fstat(inherited).st_mode)
    if descriptors.log_is_socket or _access_mode(inherited) == os.O_WRONLY:
        descriptors.log = os.dup(inherited)  # QEMU accepts no standard stream in a descriptor set
        return
    try:
        descriptors.log = os.open(f"/proc/self/fd/{inherited}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise LaunchError(f"{PREFIX}LOG_FILEPATH: cannot write {config.log_filepath}: {reason(error)}") from None


def _access_mode(descriptor: int) -> int:
    return fcntl(descriptor, F_GETFL) & os.O_ACCMODE


def open_network(machine: Machine, run: RunDirectory, descriptors: Descriptors) -> None:
    """Make or join the tap. QEMU gets its descriptor; Cloud Hypervisor opens it by name, so there it must persist."""
    network = machine.config.network
    if network.mode != "tap":
        return
    by_name = machine.backend != QEMU
    descriptor, made = open_tap(network.tap, network.bridge, persistent=by_name)
    if by_name:
        if made:
            run.tap_marker.write_text(network.tap + "\n", encoding="ascii")
            run.tap_marker.chmod(FILE_MODE)
        os.close(descriptor)
        return
    descriptors.tap = descriptor
    _drop_ambient_capabilities()
    if machine.accelerator == "kvm":
        try:
            descriptors.vhost = os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            descriptors.vhost = -1  # slower without it, but it works


def _drop_ambient_capabilities() -> None:
    """Keep from the VMM what made the tap: ambient capabilities would pass to it (prctl(2))."""
    from ctypes import CDLL, c_ulong, get_errno  # noqa: PLC0415  # milliseconds that only a tap is worth

    arguments = (c_ulong(each) for each in (_PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    if CDLL(None, use_errno=True).prctl(_PR_CAP_AMBIENT, *arguments) != 0:
        raise LaunchError(f"cannot drop the ambient capabilities: {os.strerror(get_errno())}")
