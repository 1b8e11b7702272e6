# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Open handles: which process keeps which PCI function's driver busy, from one walk over /proc/PID/fd."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from .model import BlockDevice, Iommu, OpenHandle, Pci, PciDevice, Processes
from .tree import Tree, bdfs_in, parse_integer

_NOT_HARDWARE = ("/dev/pts/", "/dev/shm/", "/dev/mqueue/", "/dev/hugepages", "/dev/tty", "/dev/net/")  # noqa: S108
_NOT_HARDWARE_NODES = {
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/console", "/dev/ptmx", "/dev/kmsg"),
    *("/dev/log", "/dev/fuse", "/dev/kvm", "/dev/mem", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/userfaultfd"),
    *("/dev/iommu", "/dev/rfkill", "/dev/autofs", "/dev/loop-control", "/dev/initctl", "/dev/vfio/vfio"),
    # Open in every process that uses any NVIDIA GPU; the GPU itself is /dev/nvidiaN.
    *("/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"),
}
_RESOURCE = re.compile(r"/sys/devices/.*/resource[0-9]+(_wc)?")
_NVIDIA = re.compile(r"/dev/nvidia([0-9]+)")
_USB = re.compile(r"/dev/bus/usb/([0-9]{3})/[0-9]{3}")
_UNIT = re.compile(r"([^/]+\.(?:service|scope))(?:/|$)")
_KTHREADS = "proc/2/task/2/children"


def read_handles(tree: Tree, pci: Pci, iommu: Iommu, blocks: dict[str, BlockDevice]) -> tuple[Pci, Processes]:
    """Return ``pci`` with the open handles of each function, and how many processes could be looked into.

    ``blocks`` tell the hardware under a block device: who has a logical volume open has its disks open.
    """
    found, processes = _walk(tree)
    owners = _Owners(tree, pci, iommu, blocks)
    by_device: dict[str, list[OpenHandle]] = {}
    described: dict[int, tuple[str, str | None]] = {}
    for pid, path in sorted(found):
        for bdf in owners.of(path):
            if pid not in described:
                described[pid] = _describe(tree, pid)
            command, unit = described[pid]
            by_device.setdefault(bdf, []).append(OpenHandle(pid, command, path, unit))
    if not by_device:
        return pci, processes
    devices: dict[str, PciDevice] = {
        bdf: replace(device, handles=tuple(by_device[bdf])) if bdf in by_device else device
        for bdf, device in pci.devices.items()
    }
    return replace(pci, devices=devices), processes


def _walk(tree: Tree) -> tuple[set[tuple[int, str]], Processes]:
    """Return (pid, path) of all open files that may be hardware. This process itself is left out.

    Kernel threads hold no files; leaving them out halves the walk on a large host.
    """
    threads = {2, *map(parse_integer, (tree.text(_KTHREADS) or "").split())}
    own = os.getpid() if tree.is_live else None
    found: set[tuple[int, str]] = set()
    scanned = unreadable = 0
    for name in tree.names("proc"):
        pid = int(name) if name.isascii() and name.isdigit() else None
        if pid is None or pid == own or pid in threads:
            continue
        targets = _targets(tree.full(f"proc/{name}/fd"))
        if targets is None:
            unreadable += 1
            continue
        scanned += 1
        found.update((pid, target.removesuffix(" (deleted)")) for target in targets if _is_hardware(target))
    return found, Processes(scanned, unreadable)


def _targets(directory: str) -> list[str] | None:
    """Return what the links in /proc/PID/fd hold; None when only root may see, nothing when the process has ended."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None
    except OSError:
        return []
    targets = []
    try:
        for name in os.listdir(descriptor):
            try:
                targets.append(os.readlink(name, dir_fd=descriptor))
            except OSError:
                continue  # Closed meanwhile.
    except OSError:
        return targets
    finally:
        os.close(descriptor)
    return targets


def _is_hardware(target: str) -> bool:
    start = target[:5]
    if start == "/dev/":
        return target not in _NOT_HARDWARE_NODES and not target.startswith(_NOT_HARDWARE)
    return start == "/sys/" and _RESOURCE.fullmatch(target) is not None


def _describe(tree: Tree, pid: int) -> tuple[str, str | None]:
    """Return a process's command and its systemd unit."""
    units = _UNIT.findall(tree.text(f"proc/{pid}/cgroup") or "")
    return tree.word(f"proc/{pid}/comm") or "?", units[-1] if units else None


class _Owners:
    """Finds the functions behind a device node; each path once."""

    def __init__(self, tree: Tree, pci: Pci, iommu: Iommu, blocks: dict[str, BlockDevice]) -> None:
        self._tree = tree
        self._devices = pci.devices
        self._groups = iommu.groups
        self._blocks = blocks
        self._known: dict[str, tuple[str, ...]] = {}
        self._classes: list[str] | None = None
        self._minors: dict[int, str] | None = None

    def of(self, path: str) -> tuple[str, ...]:
        """Return the BDFs whose driver stays busy while ``path`` is open."""
        if path not in self._known:
            endpoints = (bdf for bdf in self._find(path) if bdf in self._devices)
            self._known[path] = tuple(bdf for bdf in endpoints if not self._devices[bdf].is_bridge)
        return self._known[path]

    def _find(self, path: str) -> tuple[str, ...]:
        name = path.rpartition("/")[2]
        match = _NVIDIA.fullmatch(path)
        if match:
            return self._nvidia(int(match[1]))
        if path.startswith("/dev/nvidia-nvswitch"):
            return self._with_driver("nvidia-nvswitch")
        if path == "/dev/kfd":
            return self._with_driver("amdgpu")
        if path.startswith("/dev/vfio/devices/"):
            return tuple(bdf for bdf, device in self._devices.items() if device.vfio_device == name)
        if path.startswith("/dev/vfio/"):
            group = self._groups.get(parse_integer(name.removeprefix("noiommu-")) or 0)
            return group.devices if group else ()
        if path.startswith("/sys/"):
            return bdfs_in(path)[-1:]
        match = _USB.fullmatch(path)
        if match:
            return bdfs_in(self._tree.link_path(f"sys/bus/usb/devices/usb{int(match[1])}") or "")[-1:]
        block = self._blocks.get(name)
        return block.pci_devices if block else self._by_class(name)

    def _nvidia(self, minor: int) -> tuple[str, ...]:
        """Return the GPU behind /dev/nvidiaN; every GPU of the driver where the driver does not say which."""
        if self._minors is None:
            self._minors = {}
            for bdf in self._tree.names("proc/driver/nvidia/gpus"):
                for line in self._tree.lines(f"proc/driver/nvidia/gpus/{bdf}/information"):
                    key, _colon, value = line.partition(":")
                    number = parse_integer(value.strip())
                    if key.strip() == "Device Minor" and number is not None:
                        self._minors[number] = bdf.lower()
        found = self._minors.get(minor)
        return (found,) if found else self._with_driver("nvidia")

    def _with_driver(self, driver: str) -> tuple[str, ...]:
        return tuple(bdf for bdf, device in self._devices.items() if device.driver == driver)

    def _by_class(self, name: str) -> tuple[str, ...]:
        """Return the function below which one of the device classes has a device of that name."""
        if self._classes is None:
            self._classes = self._tree.names("sys/class")
        for each in self._classes:
            path = f"sys/class/{each}/{name}"
            if self._tree.exists(path):
                bdfs = bdfs_in(self._tree.link_path(path) or "")
                if bdfs:
                    return bdfs[-1:]
        return ()
