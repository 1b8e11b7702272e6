"""The interface between the launcher and a VMM, and the list of those it knows."""

from pathlib import Path
from typing import Protocol

from vllmd_hypervisor.cloud_hypervisor import CloudHypervisor
from vllmd_hypervisor.launch import Descriptors
from vllmd_hypervisor.machine import CLOUD_HYPERVISOR, QEMU, Machine
from vllmd_hypervisor.qemu import Qemu
from vllmd_hypervisor.state import RunDirectory


class Backend(Protocol):
    """What a VMM must be able to do. Methods that talk to it raise OSError when it does not answer."""

    def control_socket(self, run: RunDirectory) -> Path:
        """Return the socket the VMM answers on."""

    def executable(self, machine: Machine, run: RunDirectory) -> Path:
        """Return the path to exec, whose last part becomes the process's comm where the VMM sets none itself."""

    def command(self, machine: Machine, run: RunDirectory, descriptors: Descriptors) -> list[str]:
        """Return the VMM's arguments, beginning with argv[0]."""

    def bring_up(self, machine: Machine, run: RunDirectory) -> bool:
        """Make the guest run; False while the VMM is not ready to be asked, LaunchError when it refuses."""

    def vm_state(self, run: RunDirectory, timeout_seconds: float) -> str:
        """Return the state of the virtual machine in the VMM's own word."""

    def press_power_button(self, run: RunDirectory, timeout_seconds: float) -> bool:
        """Ask the guest to power off; False when there is no running guest to ask."""

    def quit(self, run: RunDirectory, timeout_seconds: float) -> None:
        """Tell the VMM to end now."""


BACKENDS: dict[str, Backend] = {CLOUD_HYPERVISOR: CloudHypervisor(), QEMU: Qemu()}
