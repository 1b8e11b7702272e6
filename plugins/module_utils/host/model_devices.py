# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host's devices: PCI functions, IOMMU groups, displays, block devices, network interfaces, device nodes.

As in all of `model`: None means unknown (not there to read, no permission, or garbage), an empty tuple or dict means
that there is none. PCI addresses (BDF) are written ``0000:01:00.0``; vendor and device ids are four lower-case
hexadecimal digits without ``0x``. Sizes and units are in the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class OpenHandle:
    """An open file of a device node or of a device's sysfs resource, from /proc/PID/fd."""

    pid: int
    command: str
    path: str
    unit: str | None = None


@dataclass(frozen=True)
class PciBar:
    """One memory or I/O range of a function, a line of its ``resource`` file; 0 to 5 are BARs, 6 is the option ROM.

    ``start`` is 0 where the firmware and the kernel could not place the range.
    """

    index: int
    start: int
    size_bytes: int
    is_memory: bool
    is_64bit: bool
    is_prefetchable: bool


@dataclass(frozen=True)
class PciLink:
    """A PCIe link now and at most: transfers per second for each lane (GT/s) and lanes."""

    speed_gtps: float | None = None
    width_lanes: int | None = None
    max_speed_gtps: float | None = None
    max_width_lanes: int | None = None


@dataclass(frozen=True)
class PciSriov:
    """SR-IOV of a physical function; ``virtual_functions`` are the BDFs of those that exist now."""

    total_vfs: int | None = None
    num_vfs: int | None = None
    virtual_functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class PciAcs:
    """Access Control Services of a function: 16 bit masks as in the PCIe specification, section 7.7.11.

    Bit 0 source validation, 1 translation blocking, 2 request redirect, 3 completion redirect, 4 upstream forwarding.
    """

    capability: int
    control: int


@dataclass(frozen=True)
class PciDevice:
    """One PCI function, /sys/bus/pci/devices/BDF.

    ``is_bridge`` is true for what stays with the host and never stands in a group's way: PCI-to-PCI and CardBus
    bridges, and host bridges without a driver. An ISA bridge or an NVSwitch (class 0680) is none in this sense.
    ``path`` is its place below /sys (``devices/pci0000:00/...``); ``upstream`` are the BDFs above it on that path,
    nearest the root first. ``nodes`` are the paths below /dev and the names of network interfaces that belong to it
    alone. ``handles`` are the open files that keep its driver busy.
    """

    bdf: str
    vendor_id: str | None = None
    device_id: str | None = None
    subsystem_vendor_id: str | None = None
    subsystem_device_id: str | None = None
    revision: int | None = None
    class_code: int | None = None
    is_bridge: bool = False
    driver: str | None = None
    driver_override: str | None = None
    modalias: str | None = None
    vfio_module: str = "vfio_pci"
    vfio_driver: str = "vfio-pci"
    vfio_device: str | None = None
    iommu_group: int | None = None
    numa_node: int | None = None
    local_cpus: tuple[int, ...] = ()
    path: str | None = None
    upstream: tuple[str, ...] = ()
    slot: str | None = None
    enabled: bool | None = None
    boot_vga: bool | None = None
    bars: tuple[PciBar, ...] = ()
    bars_bytes: int = 0
    windows: tuple[PciBar, ...] = ()
    has_rom: bool = False
    can_reset: bool | None = None
    resets: tuple[str, ...] = ()
    link: PciLink | None = None
    sriov: PciSriov | None = None
    physical_function: str | None = None
    acs: PciAcs | None = None
    d3cold_allowed: bool | None = None
    power_state: str | None = None
    runtime_status: str | None = None
    consumers: tuple[str, ...] = ()
    suppliers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    handles: tuple[OpenHandle, ...] = ()

    @property
    def id(self) -> str:
        """Return ``vendor:device`` as lspci prints it, with ``????`` for what is unknown."""
        return f"{self.vendor_id or '????'}:{self.device_id or '????'}"

    @property
    def slot_address(self) -> str:
        """Return the address without its function: functions of one card share it."""
        return self.bdf.rpartition(".")[0]


@dataclass(frozen=True)
class MmioWindow:
    """A range that a PCI root bus decodes, from /proc/iomem: where the BARs of all devices below it must fit."""

    bus: str
    start: int
    size_bytes: int


@dataclass(frozen=True)
class Pci:
    """All PCI functions by BDF, and the memory windows of the root buses (empty when only root may read them)."""

    devices: dict[str, PciDevice] = field(default_factory=dict)
    windows: tuple[MmioWindow, ...] = ()


@dataclass(frozen=True)
class IommuUnit:
    """One IOMMU of /sys/class/iommu; ``kind`` is intel, amd, smmu or the name's own stem.

    ``capability`` and ``extended_capability`` are Intel's registers (VT-d specification, 11.4.2 and 11.4.3), or for
    AMD the capability and the extended feature register.
    """

    name: str
    kind: str
    devices: tuple[str, ...] = ()
    version: str | None = None
    capability: int | None = None
    extended_capability: int | None = None


@dataclass(frozen=True)
class IommuGroup:
    """The smallest unit that an IOMMU isolates. ``type`` is its default domain: DMA, DMA-FQ, identity, blocked, auto.

    ``devices`` are BDFs, bridges too; ``other_devices`` are names of members that are not on PCI.
    """

    id: int
    devices: tuple[str, ...] = ()
    other_devices: tuple[str, ...] = ()
    type: str | None = None
    reserved_regions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Iommu:
    """The IOMMU as firmware offers it, as the kernel drives it, and as VFIO may use it.

    ``acpi_tables`` are those of DMAR, IVRS, IORT and VIOT that the firmware has. ``default_domain`` is passthrough when
    every group with a known type has an identity domain, translated when none has, mixed otherwise.
    ``interrupt_remapping`` is whether interrupts really go through it; ``interrupt_chip`` is the interrupt chip's name
    that says so. ``dma_entry_limit`` is how many mappings VFIO's type 1 driver allows one container.
    """

    acpi_tables: tuple[str, ...] = ()
    units: tuple[IommuUnit, ...] = ()
    groups: dict[int, IommuGroup] = field(default_factory=dict)
    default_domain: str | None = None
    interrupt_remapping: bool | None = None
    interrupt_remapping_supported: bool | None = None
    interrupt_chip: str | None = None
    posted_interrupts_supported: bool | None = None
    unsafe_interrupts: bool | None = None
    no_iommu: bool | None = None
    dma_entry_limit: int | None = None

    @property
    def is_on(self) -> bool:
        """Return whether the kernel drives an IOMMU: without one there are no groups."""
        return bool(self.groups)


@dataclass(frozen=True)
class Framebuffer:
    """A framebuffer of /proc/fb; ``bdf`` is the function whose BAR or driver it uses, None when nothing tells."""

    number: int
    name: str
    bdf: str | None = None


@dataclass(frozen=True)
class BarClaim:
    """A driver's name inside a function's BAR in /proc/iomem, for example efifb or simplefb."""

    bdf: str
    name: str
    start: int
    size_bytes: int


@dataclass(frozen=True)
class VtConsole:
    """A console driver of /sys/class/vtconsole."""

    name: str
    description: str | None = None
    is_bound: bool | None = None


@dataclass(frozen=True)
class Graphics:
    """What shows the host's own console. ``boot_display`` is the BDF of the function that the firmware drew on.

    ``connected`` are the BDFs of functions with a monitor plugged in, ``consoles`` the names of the active consoles.
    """

    boot_display: str | None = None
    framebuffers: tuple[Framebuffer, ...] = ()
    claims: tuple[BarClaim, ...] = ()
    vtconsoles: tuple[VtConsole, ...] = ()
    consoles: tuple[str, ...] = ()
    connected: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockDevice:
    """A block device or partition, ``number`` as major:minor.

    ``slaves`` are the names of the devices it is made of (LVM, MD, dm-crypt, the disk of a partition).
    ``pci_devices`` are all BDFs, bridges too, on the way from the root buses to the hardware below it.
    ``is_network`` is true when its data comes over a network (iSCSI, NVMe over fabrics, nbd, rbd).
    """

    name: str
    number: str
    size_bytes: int | None = None
    model: str | None = None
    is_rotational: bool | None = None
    slaves: tuple[str, ...] = ()
    pci_devices: tuple[str, ...] = ()
    is_network: bool = False


@dataclass(frozen=True)
class BlockUse:
    """Why a block device must stay: ``purpose`` is ``mount TARGET`` or ``swap``.

    ``device`` is a name in Storage.devices, None where the hardware behind ``source`` cannot be found (ZFS, for
    example); then no storage controller is known to be free.
    """

    purpose: str
    source: str
    filesystem: str
    device: str | None = None
    pci_devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filesystem:
    """Space below a directory that images and runtimes use; ``path`` is the nearest directory that exists."""

    path: str
    asked_path: str
    mount: str | None = None
    type: str | None = None
    source: str | None = None
    is_read_only: bool | None = None
    size_bytes: int | None = None
    available_bytes: int | None = None
    available_inodes: int | None = None


@dataclass(frozen=True)
class Storage:
    """Block devices by name, what of them is in use, and the room below the directories that matter."""

    devices: dict[str, BlockDevice] = field(default_factory=dict)
    uses: tuple[BlockUse, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()


@dataclass(frozen=True)
class Interface:
    """A network interface. ``speed_mbps`` is megabits per second; ``lowers`` are the interfaces it works through.

    ``pci_devices`` are all BDFs, bridges too, under it and under its lowers, with the physical functions of VFs.
    """

    name: str
    state: str | None = None
    mac: str | None = None
    mtu_bytes: int | None = None
    speed_mbps: int | None = None
    carrier: bool | None = None
    driver: str | None = None
    kind: str | None = None
    master: str | None = None
    lowers: tuple[str, ...] = ()
    pci_devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """Interfaces by name, and which of them the host must keep.

    ``default_route_interfaces`` carry a default route, ``ssh_interfaces`` the way to whoever is logged in by ssh,
    ``storage_interfaces`` the way to network file systems that are mounted.
    """

    interfaces: dict[str, Interface] = field(default_factory=dict)
    default_route_interfaces: tuple[str, ...] = ()
    ssh_interfaces: tuple[str, ...] = ()
    ssh_peers: tuple[str, ...] = ()
    storage_interfaces: tuple[str, ...] = ()
    ipv4_forwarding: bool | None = None
    ipv6_forwarding: bool | None = None


@dataclass(frozen=True)
class DeviceNode:
    """A node below /dev: permission bits, owner and group (names where /etc/passwd and /etc/group have them)."""

    path: str
    mode: int
    uid: int
    gid: int
    owner: str | None = None
    group: str | None = None
