# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""PCI functions from /sys/bus/pci (Documentation/ABI/testing/sysfs-bus-pci), each file read once."""

from __future__ import annotations

import os
import re
from struct import unpack_from

from .model import MmioWindow, Pci, PciAcs, PciBar, PciDevice, PciLink, PciSriov
from .tree import Tree, bdfs_in, is_bdf, parse_integer
from .vfio_drivers import VfioDrivers

DEVICES = "sys/bus/pci/devices"
_HOST_BRIDGE = 0x0600
_BRIDGE_CLASSES = (0x0604, 0x0607, 0x0609)
_PCI_TO_PCI = 0x0604
# Flags of the kernel's include/linux/ioport.h.
_IO, _MEMORY, _PREFETCH, _MEMORY_64, _UNSET = 0x100, 0x200, 0x2000, 0x100000, 0x20000000
# Classes of what belongs to one function, and where below /dev its nodes are (network interfaces have none).
_CLASSES = {
    "net": "",
    "block": "/dev/",
    "nvme": "/dev/",
    "drm": "/dev/dri/",
    "infiniband_verbs": "/dev/infiniband/",
}
_EMPTY_RANGE = b"0x0000000000000000 0x0000000000000000 0x0000000000000000"
_ROM_INDEX = 6
_SPEED = re.compile(r"([0-9]+(?:\.[0-9]+)?) GT/s")
_IDS = re.compile(r"([0-9A-Fa-f]{1,4}):([0-9A-Fa-f]{1,4})")
# Extended capabilities start at 0x100 of the configuration space, each with (id, version, next) in four bytes.
_EXTENDED, _CONFIG_BYTES, _ACS_ID = 0x100, 4096, 0x000D
_ROOT_BUS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) : PCI Bus ([0-9a-f]{4,8}:[0-9a-f]{2})$", re.MULTILINE)


def read_pci(tree: Tree, vfio_drivers: VfioDrivers, iomem: str) -> Pci:
    """Return all PCI functions; ``iomem`` is the text of /proc/iomem, whose root buses' windows are taken along."""
    slots, children = _slots(tree), _children(tree)
    devices = {}
    for bdf in tree.names(DEVICES):
        if is_bdf(bdf):
            slot = slots.get(bdf.rpartition(".")[0])
            devices[bdf] = _device(tree, bdf, slot, vfio_drivers, children.get(bdf, []))
    return Pci(devices, _windows(iomem))


def _slots(tree: Tree) -> dict[str, str]:
    """Return the names of physical slots by address without function."""
    slots: dict[str, str] = {}
    for name in tree.names("sys/bus/pci/slots"):
        address = tree.word(f"sys/bus/pci/slots/{name}/address")
        if address:
            slots.setdefault(address, name)
    return slots


def _device(tree: Tree, bdf: str, slot: str | None, vfio_drivers: VfioDrivers, children: list[str]) -> PciDevice:
    base = f"{DEVICES}/{bdf}"
    place = tree.link_path(base) or base
    files = set(tree.names(place))
    if files:
        base = place
    else:
        files = set(tree.names(base))
    if not files:
        return PciDevice(bdf, slot=slot)
    related = [name for name in files if ":" in name]
    uevent = _uevent(tree, base)
    vendor, device = _ids(tree, base, uevent.get("PCI_ID"), "vendor", "device")
    subsystem = _ids(tree, base, uevent.get("PCI_SUBSYS_ID"), "subsystem_vendor", "subsystem_device")
    class_code = parse_integer(uevent.get("PCI_CLASS", ""), 16)
    if class_code is None:
        class_code = tree.integer(f"{base}/class", 16)
    if class_code is not None and not 0 <= class_code <= 0xFFFFFF:
        tree.trouble(f"{base}/class", f"found {class_code:#x}, expected a class of 24 bits")
        class_code = None
    driver = tree.link_name(f"{base}/driver") if "driver" in files else None
    kind = None if class_code is None else class_code >> 8
    is_bridge = kind in _BRIDGE_CLASSES or (kind == _HOST_BRIDGE and driver is None)
    modalias = uevent.get("MODALIAS") or tree.word(f"{base}/modalias")
    vfio_module, vfio_driver = vfio_drivers.for_modalias(modalias)
    ranges = _ranges(tree, f"{base}/resource")
    bars = tuple(each for each in ranges if each.index <= _ROM_INDEX)
    group = parse_integer(tree.link_name(f"{base}/iommu_group") or "") if "iommu_group" in files else None
    node = tree.integer(f"{base}/numa_node") if "numa_node" in files else None

    def word(name: str) -> str | None:
        return tree.word(f"{base}/{name}") if name in files else None

    def flag(name: str) -> bool | None:
        return tree.flag(f"{base}/{name}") if name in files else None

    override = word("driver_override")
    return PciDevice(
        bdf=bdf,
        vendor_id=vendor,
        device_id=device,
        subsystem_vendor_id=subsystem[0],
        subsystem_device_id=subsystem[1],
        revision=tree.integer(f"{base}/revision", 16) if "revision" in files else None,
        class_code=class_code,
        is_bridge=is_bridge,
        driver=driver,
        driver_override=None if override == "(null)" else override,
        modalias=modalias,
        vfio_module=vfio_module,
        vfio_driver=vfio_driver,
        vfio_device=next((name for name in tree.names(f"{base}/vfio-dev")), None) if "vfio-dev" in files else None,
        iommu_group=group,
        numa_node=node if node is not None and node >= 0 else None,
        local_cpus=() if is_bridge else tree.cpus(f"{base}/local_cpulist"),
        path=base.removeprefix("sys/") if base.startswith("sys/devices/") else None,
        upstream=tuple(each for each in bdfs_in(base) if each != bdf) if base.startswith("sys/devices/") else (),
        slot=slot,
        enabled=(tree.count(f"{base}/enable") or 0) > 0 if "enable" in files else None,
        boot_vga=flag("boot_vga"),
        bars=bars,
        bars_bytes=sum(each.size_bytes for each in bars if each.is_memory and each.index < _ROM_INDEX),
        windows=tuple(each for each in ranges if each.index > _ROM_INDEX) if is_bridge else (),
        has_rom="rom" in files,
        can_reset="reset" in files,
        resets=tuple((word("reset_method") or "").split()),
        link=_link(
            word("current_link_speed"), word("current_link_width"), word("max_link_speed"), word("max_link_width")
        ),
        sriov=_sriov(tree, base, files),
        physical_function=tree.link_name(f"{base}/physfn") if "physfn" in files else None,
        acs=_acs(tree, base) if kind == _PCI_TO_PCI else None,
        d3cold_allowed=flag("d3cold_allowed"),
        power_state=word("power_state"),
        runtime_status=tree.word(f"{base}/power/runtime_status"),
        consumers=_related(related, "consumer:pci:"),
        suppliers=_related(related, "supplier:pci:"),
        nodes=tuple(name for name in children if name.startswith("/dev/")),
        interfaces=tuple(name for name in children if not name.startswith("/dev/")),
    )


def _uevent(tree: Tree, base: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in tree.lines(f"{base}/uevent") if "=" in line)


def _ids(tree: Tree, base: str, pair: str | None, first: str, second: str) -> tuple[str | None, str | None]:
    """Return two ids as four hexadecimal digits, from uevent's pair or else from their own files."""
    match = _IDS.fullmatch(pair or "")
    if match:
        return match[1].lower().zfill(4), match[2].lower().zfill(4)
    found = []
    for name in (first, second):
        number = tree.integer(f"{base}/{name}", 16)
        found.append(f"{number:04x}" if number is not None and 0 <= number <= 0xFFFF else None)
    return found[0], found[1]


def _ranges(tree: Tree, path: str) -> list[PciBar]:
    """Return the ranges in a ``resource`` file: start, end and flags in hexadecimal, one line each, all 0 if unused."""
    ranges = []
    for index, line in enumerate((tree.content(path) or b"").splitlines()):
        if line == _EMPTY_RANGE:
            continue
        words = [parse_integer(word.decode("ascii", "replace"), 16) for word in line.split()]
        if len(words) != 3 or None in words:
            tree.trouble(path, f"line {index + 1}: found {line[:60]!r}, expected start, end and flags")
            continue
        start, end, flags = (word or 0 for word in words)
        if flags & (_IO | _MEMORY) and 0 <= start <= end < 1 << 64:
            unset = bool(flags & _UNSET)
            is_memory = bool(flags & _MEMORY)
            bits_64, prefetch = bool(flags & _MEMORY_64), bool(flags & _PREFETCH)
            ranges.append(PciBar(index, 0 if unset else start, end - start + 1, is_memory, bits_64, prefetch))
    return ranges


def _link(speed: str | None, width: str | None, max_speed: str | None, max_width: str | None) -> PciLink | None:
    if max_speed is None and max_width is None and speed is None and width is None:
        return None
    return PciLink(_speed(speed), _width(width), _speed(max_speed), _width(max_width))


def _speed(text: str | None) -> float | None:
    match = _SPEED.match(text or "")
    return float(match[1]) if match else None


def _width(text: str | None) -> int | None:
    """Return lanes; 0 and 255 are what a link that is down or was never trained reads as."""
    number = parse_integer(text or "")
    return number if number is not None and 0 < number <= 32 else None


def _sriov(tree: Tree, base: str, files: set[str]) -> PciSriov | None:
    if "sriov_totalvfs" not in files:
        return None
    numbered = sorted(
        (int(name[6:]), name)
        for name in files
        if name.startswith("virtfn") and name[6:].isascii() and name[6:].isdigit()
    )
    names = [tree.link_name(f"{base}/{name}") for _number, name in numbered]
    return PciSriov(
        tree.count(f"{base}/sriov_totalvfs"),
        tree.count(f"{base}/sriov_numvfs"),
        tuple(name for name in names if name and is_bdf(name)),
    )


def _related(files: list[str], prefix: str) -> tuple[str, ...]:
    names = (name.removeprefix(prefix) for name in files if name.startswith(prefix))
    return tuple(sorted(name for name in names if is_bdf(name)))


def _children(tree: Tree) -> dict[str, list[str]]:
    """Return the names in `_CLASSES` by the function that they belong to, those of nodes as paths below /dev."""
    children: dict[str, list[str]] = {}
    for kind, directory in _CLASSES.items():
        names = tree.names(f"sys/class/{kind}")
        disks = set(names) if kind == "block" else set()
        for name in names:
            path = tree.link_path(f"sys/class/{kind}/{name}") or ""
            owners = bdfs_in(path)
            # Partitions stand below their disk, connectors (card0-DP-1) below their card.
            if owners and path.split("/")[-2] not in disks and not (kind == "drm" and "-" in name):
                children.setdefault(owners[-1], []).append(f"{directory}{name}")
    return children


def _acs(tree: Tree, base: str) -> PciAcs | None:
    """Walk the extended capabilities of the configuration space (readable by root only) for ACS.

    Only the bytes needed are read: each access goes out to the device.
    """
    try:
        descriptor = os.open(tree.full(f"{base}/config"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        offset = _EXTENDED
        for _step in range((_CONFIG_BYTES - _EXTENDED) // 8):
            data = os.pread(descriptor, 4, offset)
            if len(data) < 4:
                return None
            (header,) = unpack_from("<I", data)
            if header in (0, 0xFFFFFFFF):
                return None
            if header & 0xFFFF == _ACS_ID:
                masks = os.pread(descriptor, 4, offset + 4)
                return PciAcs(*unpack_from("<HH", masks)) if len(masks) == 4 else None
            offset = header >> 20 & 0xFFC
            if offset < _EXTENDED:
                return None
        return None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _windows(iomem: str) -> tuple[MmioWindow, ...]:
    """Return the root buses' windows: without root's privileges all addresses read as 0 and say nothing."""
    windows = []
    for match in _ROOT_BUS.finditer(iomem):
        start, end = int(match[1], 16), int(match[2], 16)
        if end > start:
            windows.append(MmioWindow(match[3], start, end - start + 1))
    return tuple(windows)
