"""Builds the files of a host from a compact description: the machines under ``tests/unit/data/hosts`` and random ones.

`HostTree.tree` is what `trees.materialise` lays out; `host_of` reads it as a host.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from struct import pack

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from tests.support.host_base import GIB, BaseTree
from tests.support.trees import Tree, materialise

# PCI classes: base class, subclass, programming interface.
GPU, VGA, AUDIO, XHCI, UCSI = 0x030200, 0x030000, 0x040300, 0x0C0330, 0x0C8000
BRIDGE, HOST_BRIDGE, ISA, NVSWITCH, SYSTEM = 0x060400, 0x060000, 0x060100, 0x068000, 0x088000
NVME, SATA, ETHERNET, INFINIBAND = 0x010802, 0x010601, 0x020000, 0x020700
_MEMORY_64_PREFETCH, _MEMORY_32 = 0x14220C, 0x40200
_ROM = 0x46200


@dataclass(frozen=True)
class Link:
    """A PCIe link: generation and lanes now and at most."""

    generation: int = 5
    width: int = 16
    max_generation: int = 5
    max_width: int = 16


_SPEEDS = {1: "2.5", 2: "5.0", 3: "8.0", 4: "16.0", 5: "32.0"}


def host_of(tree: Tree) -> Host:
    """Return the host that reads as ``tree``."""
    # Hundreds of small files: in memory where there is such a file system.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        return read_host(str(materialise(tree, Path(directory))))


class HostTree(BaseTree):
    """A host's files with its devices."""

    def pci(
        self,
        bdf: str,
        ids: str,
        class_code: int,
        *,
        parent: str | None = None,
        driver: str | None = None,
        group: int | None = None,
        node: int = 0,
        bars: tuple[int, ...] = (),
        rom_bytes: int = 0,
        link: Link | None = None,
        resets: str = "flr bus",
        boot_vga: bool | None = None,
        vfs: tuple[int, int] | None = None,
        acs: tuple[int, int] | None = None,
        subsystem: str = "0000:0000",
        slot: str | None = None,
    ) -> str:
        """Add a function; ``bars`` are sizes, those of 1 GiB and more are 64 bit. ``vfs`` are (total, now).

        Returns its address, so that it can be a parent.
        """
        assert bdf not in self.places, f"{bdf} is there already"
        domain_bus = bdf[:-5]
        place = f"{self.places[parent]}/{bdf}" if parent else f"sys/devices/pci{domain_bus}/{bdf}"
        self.places[bdf] = place
        self.link(f"sys/bus/pci/devices/{bdf}", place)
        self._identity(place, bdf, ids, class_code, driver=driver, subsystem=subsystem)
        self.text(f"{place}/numa_node", node)
        self.text(f"{place}/local_cpulist", f"0-{self.cpus - 1}")
        self._resource(place, bdf, bars, rom_bytes, is_bridge=class_code == BRIDGE)
        self.text(f"{place}/enable", 1 if driver else 0)
        self.text(f"{place}/power_state", "D0")
        self.text(f"{place}/power/runtime_status", "active")
        self.text(f"{place}/d3cold_allowed", 1)
        self.text(f"{place}/driver_override", "(null)")
        if link:
            for name, generation, width in (
                ("current", link.generation, link.width),
                ("max", link.max_generation, link.max_width),
            ):
                self.text(f"{place}/{name}_link_speed", f"{_SPEEDS[generation]} GT/s PCIe")
                self.text(f"{place}/{name}_link_width", width)
        if resets and class_code != BRIDGE:
            self.text(f"{place}/reset_method", resets)
            self.present(f"{place}/reset")
        if boot_vga is not None:
            self.text(f"{place}/boot_vga", int(boot_vga))
        if vfs:
            self.text(f"{place}/sriov_totalvfs", vfs[0])
            self.text(f"{place}/sriov_numvfs", vfs[1])
        if acs:
            self.tree[f"{place}/config"] = {"hex": (bytes(256) + pack("<IHH", 0x0001000D, *acs)).hex()}
        if slot:
            self.text(f"sys/bus/pci/slots/{slot}/address", bdf.rpartition(".")[0])
        if group is not None:
            self.group_member(bdf, group)
        return bdf

    def _identity(self, place: str, bdf: str, ids: str, class_code: int, *, driver: str | None, subsystem: str) -> None:
        vendor, device = ids.upper().split(":")
        sub_vendor, sub_device = subsystem.upper().split(":")
        base, sub, interface = class_code >> 16, class_code >> 8 & 0xFF, class_code & 0xFF
        modalias = (
            f"pci:v0000{vendor}d0000{device}sv0000{sub_vendor}sd0000{sub_device}bc{base:02X}sc{sub:02X}i{interface:02X}"
        )
        lines = [f"PCI_CLASS={class_code:X}", f"PCI_ID={vendor}:{device}", f"PCI_SUBSYS_ID={sub_vendor}:{sub_device}"]
        lines = [*([f"DRIVER={driver}"] if driver else []), *lines, f"PCI_SLOT_NAME={bdf}", f"MODALIAS={modalias}"]
        self.text(f"{place}/uevent", "\n".join(lines))
        self.text(f"{place}/vendor", f"0x{vendor.lower()}")
        self.text(f"{place}/device", f"0x{device.lower()}")
        self.text(f"{place}/subsystem_vendor", f"0x{sub_vendor.lower()}")
        self.text(f"{place}/subsystem_device", f"0x{sub_device.lower()}")
        self.text(f"{place}/class", f"{class_code:#08x}")
        self.text(f"{place}/revision", "0xa1")
        self.text(f"{place}/modalias", modalias)
        if driver:
            self.directory(f"sys/bus/pci/drivers/{driver}")
            self.link(f"{place}/driver", f"sys/bus/pci/drivers/{driver}")

    def _resource(self, place: str, bdf: str, bars: tuple[int, ...], rom_bytes: int, *, is_bridge: bool) -> None:
        unused = "0x0000000000000000 0x0000000000000000 0x0000000000000000"
        lines = []
        for size in bars:
            start, flags = self._next_bar, _MEMORY_64_PREFETCH if size >= GIB else _MEMORY_32
            start = -(-start // max(size, 4096)) * max(size, 4096) if size else 0
            lines.append(f"{start:#018x} {start + size - 1:#018x} {flags:#018x}" if size else unused)
            if size:
                self._next_bar = start + size
                self._iomem.append(f"  {start:x}-{start + size - 1:x} : {bdf}")
        lines += [unused] * (6 - len(lines))
        lines.append(f"{0xFB000000:#018x} {0xFB000000 + rom_bytes - 1:#018x} {_ROM:#018x}" if rom_bytes else unused)
        if rom_bytes:
            self.present(f"{place}/rom")
        lines += [unused] * ((17 if is_bridge else 13) - len(lines))
        self.text(f"{place}/resource", "\n".join(lines))

    def group_member(self, bdf: str, group: int, kind: str = "DMA-FQ") -> None:
        """Put a function into an IOMMU group."""
        base = f"sys/kernel/iommu_groups/{group}"
        self.link(f"{base}/devices/{bdf}", self.places[bdf])
        self.link(f"{self.places[bdf]}/iommu_group", base)
        self.tree.setdefault(f"{base}/type", f"{kind}\n")
        regions = "0x00000000fee00000 0x00000000feefffff msi\n"
        self.tree.setdefault(f"{base}/reserved_regions", regions)

    def iommu(self, kind: str, *, remapping: bool = True) -> None:
        """Add the firmware's table, the IOMMU and the interrupt chip that tells whether interrupts are remapped."""
        table = {"intel": "DMAR", "amd": "IVRS", "smmu": "IORT"}[kind]
        self.present(f"sys/firmware/acpi/tables/{table}")
        if kind == "intel":
            base = "sys/class/iommu/dmar0/intel-iommu"
            self.text(f"{base}/cap", "19ed008c40780c66")
            self.text(f"{base}/ecap", "3ef9a6f0ff")
            self.text(f"{base}/version", "7:0")
        elif kind == "amd":
            self.text("sys/class/iommu/ivhd0/amd-iommu/cap", "190b640f")
            self.text("sys/class/iommu/ivhd0/amd-iommu/features", "246577efa2254ada:0")
        else:
            self.directory("sys/class/iommu/smmu3.0x0000000005000000")
        chip = "ITS-PCI-MSI" if kind == "smmu" else "IR-IO-APIC" if remapping else "IO-APIC"
        self.text("sys/kernel/irq/1/chip_name", chip)

    # Disks, file systems and the network.

    def disk(self, name: str, number: str, bdf: str, way: str, *, partitions: int = 0, gib: int = 1788) -> None:
        """Add a disk below a function; ``way`` is the path between, for example ``nvme/nvme0``."""
        place = f"{self.places[bdf]}/{way}/{name}"
        self.block(name, number, place, gib)
        kind, _slash, controller = way.partition("/")
        if kind == "nvme":
            self.link(f"sys/class/nvme/{controller}", f"{self.places[bdf]}/{way}")
        self.text(f"{place}/queue/rotational", 0)
        major, minor = number.split(":")
        for index in range(1, partitions + 1):
            part = f"{name}{'p' if name[-1].isdigit() else ''}{index}"
            self.block(part, f"{major}:{int(minor) + index}", f"{place}/{part}", gib // partitions)
            self.text(f"{place}/{part}/partition", index)

    def block(self, name: str, number: str, place: str, gib: int, slaves: tuple[str, ...] = ()) -> None:
        """Add any block device at its place below /sys."""
        self.link(f"sys/class/block/{name}", place)
        self.text(f"{place}/dev", number)
        self.text(f"{place}/size", gib * GIB // 512)
        for slave in slaves:
            target = self.tree[f"sys/class/block/{slave}"]
            assert isinstance(target, dict)
            real = os.path.normpath(f"sys/class/block/{target['link']}")
            self.link(f"{place}/slaves/{slave}", real)

    def mapped(self, index: int, name: str, slaves: tuple[str, ...], gib: int = 100) -> None:
        """Add a device-mapper device."""
        place = f"sys/devices/virtual/block/dm-{index}"
        self.block(f"dm-{index}", f"253:{index}", place, gib, slaves)
        self.text(f"{place}/dm/name", name)

    def mount(self, number: str, target: str, kind: str, source: str, gib: tuple[int, int] | None = None) -> None:
        """Mount a file system; ``gib`` are its size and what is free."""
        self._mounts.append(f"{20 + len(self._mounts)} 1 {number} / {target} rw,relatime shared:1 - {kind} {source} rw")
        self.text("proc/self/mountinfo", "\n".join(self._mounts))
        self.directory(target[1:] or "tmp")
        if gib:
            self._captured["space"][target[1:]] = [gib[0] * GIB, gib[1] * GIB, 10_000_000]

    def nic(
        self, name: str, bdf: str | None, driver: str | None = None, speed: int = 25000, lowers: tuple[str, ...] = ()
    ) -> None:
        """Add a network interface, on a function or virtual over ``lowers``."""
        place = f"{self.places[bdf]}/net/{name}" if bdf else f"sys/devices/virtual/net/{name}"
        self.link(f"sys/class/net/{name}", place)
        for each, value in (("operstate", "up"), ("mtu", 1500), ("carrier", 1), ("speed", speed)):
            self.text(f"{place}/{each}", value)
        self.text(f"{place}/address", f"02:00:00:00:00:{len(self.tree) % 256:02x}")
        self.text(f"{place}/uevent", f"INTERFACE={name}")
        if bdf:
            self.link(f"{place}/device", self.places[bdf])
            if driver:
                self.directory(f"sys/bus/pci/drivers/{driver}")
        for lower in lowers:
            target = self.tree[f"sys/class/net/{lower}"]
            assert isinstance(target, dict)
            real = os.path.normpath(f"sys/class/net/{target['link']}")
            self.link(f"{place}/lower_{lower}", real)
            self.link(f"{real}/master", place)

    def route(self, interface: str, network: str = "0.0.0.0/0", gateway: str = "192.0.2.1") -> None:
        """Add an IPv4 route; without a gateway it is the interface's own network."""
        address, _slash, length = network.partition("/")
        mask = ((1 << 32) - (1 << (32 - int(length)))).to_bytes(4, "little").hex().upper()
        words = [
            _little_endian(address),
            _little_endian(gateway) if gateway else "00000000",
            "0003",
            "0",
            "0",
            "100",
            mask,
        ]
        self._routes.append("\t".join([interface, *words, "0", "0", "0"]))
        header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"
        self.text("proc/net/route", "\n".join([header, *self._routes]))

    def ssh(self, peer: str = "198.51.100.7", server: str = "192.0.2.10") -> None:
        """Let the reading process be started over ssh."""
        self.tree["proc/self/environ"] = f"LANG=C\0SSH_CONNECTION={peer} 50022 {server} 22\0"


def _little_endian(address: str) -> str:
    return bytes(int(part) for part in reversed(address.split("."))).hex().upper()
