"""An emulated host as QEMU's command line: which devices it has, and which of them share an IOMMU group.

A host is described by slots. Each slot is one device behind a PCIe root port of its own, so its functions are one IOMMU
group, and slot N is PCI bus N: the first function of the first slot is 0000:01:00.0 in the guest. A function is named
after what it stands in for (STAND_INS), or is SYSTEM_DISK or NETWORK, the machine's own, which otherwise get slots
after the listed ones. Neighbouring slots with `acs: false` hang off functions of one port without access control
services, so they share one group with these ports.

Outside the slots, on bus 0, every host has a boot display (00:02.0), a seed disk (00:03.0) and an ISA bridge (00:1f.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_DISK, NETWORK = "system_disk", "network"
DISK_MIB = 16  # a stand-in's disk
_FIRST_PORT, _LAST_PORT = 0x10, 0x1D

# What a test can put into a slot. {id} becomes a name of its own; a disk is made where a drive of that name is used.
# None has NVIDIA's vendor id: classes and behaviour are what tests need.
STAND_INS = {
    "vga": ("ati-vga,romfile=",),  # 0x0300, VGA compatible controller; no driver in Debian claims it
    "display": ("bochs-display",),  # 0x0380, display controller; bochs-drm
    # 0x0302, 3D controller, as data centre GPUs are; virtio_blk. Behind an IOMMU virtio must ask for translation.
    "gpu": ("virtio-blk-pci,class=0x0302,drive={id},serial={id},iommu_platform=on,disable-legacy=on",),
    "audio": ("intel-hda,id={id}", "hda-output,bus={id}.0,audiodev=quiet"),  # 0x0403; snd_hda_intel
    "nvme": ("nvme,drive={id},serial={id}",),  # 0x0108
    "usb": ("qemu-xhci",),  # 0x0c03
    # 0x0108 that can be split into two virtual functions (SR-IOV)
    "sriov": (
        "nvme-subsys,id={id}-subsys",
        "nvme,serial={id},subsys={id}-subsys,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7",
    ),
    SYSTEM_DISK: ("virtio-blk-pci,drive=system,serial=system,iommu_platform=on,disable-legacy=on",),
    NETWORK: ("virtio-net-pci,netdev=net,mac={mac},romfile=,iommu_platform=on,disable-legacy=on",),
}
# As in machine/setup. An emulated CPU that waits for its turn is no lockup, and its clock is no worse for it.
_KERNEL_PARAMETERS = "console=ttyS0 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable quiet"
_IOMMU = {
    "remapping": ["-device", "intel-iommu,intremap=on"],
    "no_remapping": ["-device", "intel-iommu,intremap=off"],
    "none": [],
}


class MachineError(ValueError):
    """One line for a person: what is wrong with the description of a host."""


@dataclass(frozen=True)
class Slot:
    """One device: its functions by name, and whether its port keeps it apart from its neighbours."""

    functions: tuple[str, ...]
    acs: bool = True


@dataclass(frozen=True)
class Machine:
    """An emulated host. `boot` is "kernel", with `cmdline`, or "grub", whose configuration lies on the disk."""

    slots: tuple[Slot, ...]
    iommu: str = "remapping"
    memory_mib: int = 1024
    cmdline: str = ""
    boot: str = "kernel"


def parse_slots(entries: Sequence[object]) -> tuple[Slot, ...]:
    """The slots of a platform entry: lists of function names, or {functions: [...], acs: false}. MachineError."""
    slots = []
    for entry in entries:
        described = entry if isinstance(entry, Mapping) else {"functions": entry}
        functions = described.get("functions")
        unknown = [name for name in functions if name not in STAND_INS] if isinstance(functions, list) else [functions]
        if unknown or not functions:
            raise MachineError(f"slot {entry!r} names no known functions; there are: {', '.join(sorted(STAND_INS))}")
        slots.append(Slot(tuple(functions), bool(described.get("acs", True))))
    own = [name for name in (NETWORK, SYSTEM_DISK) if not any(name in slot.functions for slot in slots)]
    return (*slots, *(Slot((name,)) for name in own))


def disks(machine: Machine) -> list[str]:
    """Names of the stand-ins' disks; the caller makes a file of each."""
    return [name for name, _, argument in _functions(machine, "") if f"drive={name}" in argument.split(",")]


def command(machine: Machine, state: Path, image: Path, *, tap: int, mac: str, root_uuid: str) -> list[str]:
    """QEMU's arguments. `state` holds system.qcow2, seed.tar and the disks; `tap` is an open descriptor."""
    arguments = ["qemu-system-x86_64", "-name", state.name, "-nodefaults", "-no-user-config", "-display", "none"]
    arguments += ["-machine", "q35,kernel-irqchip=split,vmport=off,sata=off,smbus=off", "-accel", "tcg"]
    # One CPU: with two, QEMU 7.2 lets one run code that the other's kernel is just patching, now and then a panic.
    # Its emulated cmpxchg16b makes Linux 6.12 double fault now and then, and five-level paging only costs time.
    arguments += ["-cpu", "max,-cx16,-la57", "-smp", "1", "-m", str(machine.memory_mib)]
    arguments += [*_IOMMU[machine.iommu], "-audiodev", "none,id=quiet"]
    arguments += ["-netdev", f"tap,id=net,fd={tap}"]
    arguments += _drive("system", state / "system.qcow2", "qcow2")
    arguments += _drive("seed", state / "seed.tar", "raw", readonly=True)
    for name in disks(machine):
        arguments += _drive(name, state / f"{name}.raw", "raw")
    arguments += ["-device", "VGA,bus=pcie.0,addr=0x02,romfile=vgabios-stdvga.bin"]
    arguments += ["-device", "virtio-blk-pci,drive=seed,serial=seed,bus=pcie.0,addr=0x03"]
    arguments += _ports(machine)
    for _, place, argument in _functions(machine, mac):
        arguments += ["-device", argument + place]
    arguments += ["-serial", f"file:{state / 'console.log'}", "-qmp", f"unix:{state / 'qmp.sock'},server=on,wait=off"]
    if machine.boot == "grub":
        return [*arguments, "-kernel", str(image / "grub")]
    boot = ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd")]
    return [*arguments, *boot, "-append", f"root=UUID={root_uuid} ro {_KERNEL_PARAMETERS} {machine.cmdline}".strip()]


def _drive(name: str, path: Path, kind: str, *, readonly: bool = False) -> list[str]:
    # Nobody needs what is on these disks after a power cut.
    return [
        "-drive",
        f"if=none,id={name},file={path},format={kind},cache=unsafe,readonly={'on' if readonly else 'off'}",
    ]


def _ports(machine: Machine) -> list[str]:
    arguments: list[str] = []
    device, function = _FIRST_PORT - 1, 0
    previous = Slot(())
    for index, slot in enumerate(machine.slots):
        shared = not slot.acs and not previous.acs
        device, function = (device, function + 1) if shared else (device + 1, 0)
        previous = slot
        if device > _LAST_PORT:
            raise MachineError(f"a host has room for {_LAST_PORT - _FIRST_PORT + 1} slots, its own two included")
        port = (
            f"pcie-root-port,id=slot{index},chassis={index + 1},slot={index + 1},bus=pcie.0,addr={device:#x}.{function}"
        )
        arguments += ["-device", port + ("" if slot.acs else ",disable-acs=on,multifunction=on")]
    return arguments


def _functions(machine: Machine, mac: str) -> Iterator[tuple[str, str, str]]:
    """For each -device of the slots: its name, its place as the end of an argument (empty for a part), the argument."""
    for index, slot in enumerate(machine.slots):
        for number, kind in enumerate(slot.functions):
            name = f"{kind.replace('_', '')}{index + 1}x{number}"
            for part in STAND_INS[kind]:
                argument = part.format(id=name, mac=mac)
                placed = "" if part.startswith(("hda-", "nvme-subsys")) else f",bus=slot{index},addr=0x0.{number:#x}"
                many = ",multifunction=on" if placed and number == 0 and len(slot.functions) > 1 else ""
                yield name, placed + many, argument
