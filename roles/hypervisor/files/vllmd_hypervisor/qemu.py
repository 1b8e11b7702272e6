"""The qemu backend: a q35 machine of virtio devices, as command line and over QMP.

Guest addresses on pcie.0 are fixed, so that device names in the guest never change: network 02.0, system disk 03.0
(vda), config disk 04.0 (vdb), random numbers 05.0, panic notifier 06.0, cache disk 07.0 (vdc), passthrough behind root
ports from 10.0 on.

A guest that reboots stays in the same QEMU (no -no-reboot: the kernel is loaded again and passthrough devices are
reset). A guest that panics with its pvpanic driver loaded ends QEMU with exit code 1, so that systemd restarts it.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

from vllmd_hypervisor import qmp
from vllmd_hypervisor.devices import Endpoint
from vllmd_hypervisor.errors import PROGRAM
from vllmd_hypervisor.image import QCOW2, Image
from vllmd_hypervisor.kernel import FIRMWARE
from vllmd_hypervisor.launch import Descriptors
from vllmd_hypervisor.machine import DISK_NAMES, Machine
from vllmd_hypervisor.memory import qemu_memory
from vllmd_hypervisor.network import Network
from vllmd_hypervisor.quantity import GIB
from vllmd_hypervisor.state import RunDirectory

# QEMU 7.2's emulated cmpxchg16b makes Linux 6.12 double fault now and then, and five-level paging only costs time.
_CPU_MODELS = {"kvm": "host", "tcg": "max,-cx16,-la57"}
_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_LOG_FDSET = 1
_DISK_SLOTS = (0x03, 0x04, 0x07)
_FIRST_PORT_SLOT, _PORTS_PER_SLOT = 0x10, 8
_Q35_HOLE64 = 32 * GIB  # what q35 keeps for 64-bit BARs unless told otherwise
_ANSWER_SECONDS = 5.0
# States in which no guest code runs, so nobody would notice a power button (qapi/run-state.json).
_DEAD_STATES = ("guest-panicked", "internal-error", "io-error", "shutdown", "paused", "prelaunch", "inmigrate")


class Qemu:
    """See backend.Backend."""

    def control_socket(self, run: RunDirectory) -> Path:
        """Return the QMP socket."""
        return run.qmp_socket

    def executable(self, machine: Machine, run: RunDirectory) -> Path:
        """Return QEMU's own path: `-name process=` sets the comm."""
        del run
        return machine.vmm

    def command(self, machine: Machine, run: RunDirectory, descriptors: Descriptors) -> list[str]:
        """Return QEMU's arguments."""
        config = machine.config
        return [
            PROGRAM,
            *("-name", f"guest={config.identity.name},process={PROGRAM}"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,vmport=off,sata=off,smbus=off,dump-guest-core=off,memory-backend=ram0"),
            *("-accel", _ACCELERATORS[machine.accelerator], "-cpu", _CPU_MODELS[machine.accelerator]),
            *("-smp", f"{config.cpu_count},sockets=1"),
            *qemu_memory(config.memory),
            *_payload(machine),
            *_network(config.network, descriptors),
            *chain.from_iterable(map(_disk, DISK_NAMES, machine.disks, _DISK_SLOTS)),
            *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
            *("-device", "virtio-rng-pci,rng=rng0,bus=pcie.0,addr=0x05"),
            *("-device", "pvpanic-pci,bus=pcie.0,addr=0x06", "-action", "panic=exit-failure"),
            *_passthrough(machine.endpoints),
            *_console(run, descriptors),
            *("-chardev", f"socket,id=qmp,path={_escape(run.qmp_socket)},server=on,wait=off"),
            *("-mon", "chardev=qmp,mode=control"),
            *("-sandbox", _SANDBOX),
        ]

    def bring_up(self, machine: Machine, run: RunDirectory) -> bool:
        """QEMU starts the guest by itself; wait until it says so."""
        del machine
        return self.vm_state(run, _ANSWER_SECONDS) == "running"

    def vm_state(self, run: RunDirectory, timeout_seconds: float) -> str:
        """Return QEMU's run state: running, paused, shutdown, guest-panicked, ..."""
        return str(qmp.execute(run.qmp_socket, "query-status", timeout_seconds)["status"])

    def press_power_button(self, run: RunDirectory, timeout_seconds: float) -> bool:
        """Press ACPI's power button, unless no guest code runs."""
        if self.vm_state(run, timeout_seconds) in _DEAD_STATES:
            return False
        qmp.execute(run.qmp_socket, "system_powerdown", timeout_seconds)
        return True

    def quit(self, run: RunDirectory, timeout_seconds: float) -> None:
        """Tell QEMU to end."""
        qmp.execute(run.qmp_socket, "quit", timeout_seconds)


def _payload(machine: Machine) -> list[str]:
    config = machine.config
    if machine.kernel_kind == FIRMWARE:
        return ["-bios", str(config.kernel)]
    arguments = ["-kernel", str(config.kernel)]
    if config.initrd:
        arguments += ["-initrd", str(config.initrd)]
    return [*arguments, "-append", config.cmdline] if config.cmdline else arguments


def _disk(name: str, image: Image, slot: int) -> list[str]:
    driver = "host_device" if image.block_device else "file"
    file = {"driver": driver, "filename": str(image.path)}
    node: dict[str, Any] = {
        "driver": image.format,
        "node-name": name,
        "read-only": image.readonly,
        "auto-read-only": False,
        "discard": "ignore" if image.readonly else "unmap",
        "file": file | {"discard": "ignore" if image.readonly else "unmap"},
    }
    if image.format == QCOW2:
        node["backing"] = None  # whatever its header says by now
    device = f"virtio-blk-pci,drive={name},id={name}-disk,serial={name},bus=pcie.0,addr={slot:#04x}"
    return ["-blockdev", json.dumps(node), "-device", device]


def _network(network: Network, descriptors: Descriptors) -> list[str]:
    if network.mode == "none":
        return []
    netdev = "user,id=net0"
    for forward in network.forwards:
        netdev += f",hostfwd=tcp:{forward.host_address}:{forward.host_port}-:{forward.guest_port}"
    if network.mode == "tap":
        netdev = f"tap,id=net0,fd={descriptors.tap}"
        if descriptors.vhost >= 0:
            netdev += f",vhost=on,vhostfd={descriptors.vhost}"
    # An empty romfile: nothing boots from the network, and the ROM is in another package.
    card = f"virtio-net-pci,netdev=net0,mac={network.mac},romfile=,bus=pcie.0,addr=0x02"
    return ["-netdev", netdev, "-device", card]


def _passthrough(endpoints: tuple[Endpoint, ...]) -> list[str]:
    """Each endpoint behind a root port of its own, as drivers of GPUs expect; eight ports share a slot."""
    arguments = []
    hole = _Q35_HOLE64
    while hole < 2 * sum(endpoint.bar_bytes for endpoint in endpoints):
        hole *= 2
    if hole > _Q35_HOLE64:
        arguments += ["-global", f"q35-pcihost.pci-hole64-size={hole}"]
    for index, endpoint in enumerate(endpoints):
        slot, function = divmod(index, _PORTS_PER_SLOT)
        port = f"pcie-root-port,id=port{index},chassis={index + 1},slot={index + 1},bus=pcie.0"
        port += f",addr={_FIRST_PORT_SLOT + slot:#04x}.{function}"
        arguments += ["-device", port + (",multifunction=on" if function == 0 else "")]
        arguments += ["-device", f"vfio-pci,host={endpoint.bdf},id=vfio{index},bus=port{index},addr=0x0,rombar=0"]
    return arguments


def _console(run: RunDirectory, descriptors: Descriptors) -> list[str]:
    """ttyS0 goes to the log and to console.sock; a log that is a socket (journald) leaves console.sock to ttyS1."""
    socket = f"socket,path={_escape(run.console_socket)},server=on,wait=off"
    if descriptors.log_is_socket:
        log = ["-chardev", "stdio,id=log,signal=off", "-serial", "chardev:log"]
        return [*log, "-chardev", f"{socket},id=console", "-serial", "chardev:console"]
    chardev = f"{socket},id=console,logfile=/dev/fdset/{_LOG_FDSET},logappend=on"
    passed = ["-add-fd", f"fd={descriptors.log},set={_LOG_FDSET},opaque=log"]
    return [*passed, "-chardev", chardev, "-serial", "chardev:console"]


def _escape(path: Path) -> str:
    """Write a path for an option list, where a comma ends a value and two stand for one."""
    return str(path).replace(",", ",,")
