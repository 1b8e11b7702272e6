# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Block devices down to the PCI functions that carry them, what uses them, and free space.

The way down: a partition's disk, the ``slaves`` of LVM, MD and dm-crypt, a loop device's file, the paths of an NVMe
subsystem (whose own device is virtual), the members of a btrfs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .model import BlockDevice, BlockUse, Filesystem, Storage
from .tree import Tree, bdfs_in

_BLOCK = "sys/class/block"
_SECTOR_BYTES = 512
_NETWORK_PATH = re.compile(r"/session[0-9]+/|/virtual/nvme-fabrics/|/virtual/block/(nbd|rbd|drbd)|/devices/(nbd|rbd)")
_NVME_CONTROLLER = re.compile(r"nvme[0-9]+")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_SHORTEST_DETAILS, _SHORTEST_MOUNTINFO = 2, 9
#: A container host mounts one device thousands of times; the first few say enough.
_MOST_MOUNTS_OF_A_DEVICE = 16
#: Directories whose space matters: the root, kernels, images and runtimes, caches of downloads.
DIRECTORIES = ("", "boot", "var/lib/vllmd", "var/lib/vllmd/images", "var/cache/vllmd", "var/log", "tmp")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo; ``details`` are the options of the file system itself."""

    number: str
    target: str
    options: str
    filesystem: str
    source: str
    details: str = ""


def read_mounts(tree: Tree) -> list[Mount]:
    """Return the mounts in order (Documentation/filesystems/proc.rst, 3.5)."""
    mounts = []
    for line in tree.lines("proc/self/mountinfo"):
        words = line.split()
        if "-" not in words or len(words) < _SHORTEST_MOUNTINFO:
            continue
        after = words[words.index("-") + 1 :]
        if len(after) >= _SHORTEST_DETAILS:
            details = after[2] if len(after) > _SHORTEST_DETAILS else ""
            mounts.append(Mount(words[2], _plain(words[4]), words[5], after[0], _plain(after[1]), details))
    return mounts


def read_storage(tree: Tree, mounts: list[Mount], also: tuple[str, ...] = ()) -> Storage:
    """Return block devices, their uses and the room below `DIRECTORIES` and the absolute paths in ``also``."""
    reader = _Blocks(tree, mounts)
    asked = dict.fromkeys((*DIRECTORIES, *(path.strip("/") for path in also)))
    return Storage(reader.devices, tuple(reader.uses()), tuple(_filesystems(tree, mounts, asked)))


class _Blocks:
    """Block devices by name, each read once and resolved down to the hardware."""

    def __init__(self, tree: Tree, mounts: list[Mount]) -> None:
        self._tree = tree
        self._mounts = mounts
        self._paths = {name: tree.link_path(f"{_BLOCK}/{name}") or "" for name in tree.names(_BLOCK)}
        self._numbers: dict[str, str] = {}
        self._mapper: dict[str, str] = {}
        # Loop devices last: the disks under their files must be known.
        names = sorted(self._paths, key=lambda name: (name.startswith("loop"), name))
        plain = {name: self._device(name) for name in names}
        self._plain = {name: device for name, device in plain.items() if device}
        self.devices = {name: self._resolved(device) for name, device in sorted(self._plain.items())}

    def uses(self) -> list[BlockUse]:
        """Return what is mounted or swapped on."""
        uses: dict[str, BlockUse] = {}
        counts: dict[str, int] = {}
        for mount in self._mounts:
            names = self._behind(mount)
            if names is None:
                continue
            unknown: list[str | None] = [None]
            for name in names or unknown:
                counts[mount.source] = counts.get(mount.source, 0) + 1
                if counts[mount.source] <= _MOST_MOUNTS_OF_A_DEVICE:
                    use = self._use(f"mount {mount.target}", mount.source, mount.filesystem, name)
                    uses[f"{use.purpose} {use.device}"] = use
        for line in self._tree.lines("proc/swaps")[1:]:
            words = line.split()
            # A swap file lies on a mounted file system, which is in the list already.
            if len(words) > 1 and words[1] == "partition":
                source = _plain(words[0])
                use = self._use("swap", source, "swap", self._by_path(source))
                uses[f"{use.purpose} {use.device or source}"] = use
        return list(uses.values())

    def _use(self, purpose: str, source: str, filesystem: str, name: str | None) -> BlockUse:
        hardware = self.devices[name].pci_devices if name else ()
        return BlockUse(purpose, source, filesystem, name, hardware)

    def _behind(self, mount: Mount) -> list[str] | None:
        """Return the devices of a mount; an empty list when there must be some, None when there are none."""
        if mount.number in self._numbers:
            return self._with_btrfs(mount, self._numbers[mount.number])
        if mount.source.startswith("/dev/"):
            names = [name for name in map(self._by_path, mount.source.split(":")) if name]
            return self._with_btrfs(mount, names[0]) if len(names) == 1 else names
        return [] if mount.filesystem == "zfs" else None

    def _with_btrfs(self, mount: Mount, name: str) -> list[str]:
        """Return a mount's device, and on a btrfs of several all of them."""
        if mount.filesystem != "btrfs":
            return [name]
        for uuid in self._tree.names("sys/fs/btrfs"):
            members = self._tree.names(f"sys/fs/btrfs/{uuid}/devices")
            if name in members:
                return [each for each in members if each in self.devices] or [name]
        return [name]

    def _by_path(self, path: str) -> str | None:
        """Return the block device of a path below /dev, also of /dev/mapper/NAME, without looking at nodes' numbers."""
        name = path.removeprefix("/dev/")
        if name in self._plain:
            return name
        if name.removeprefix("mapper/") in self._mapper:
            return self._mapper[name.removeprefix("mapper/")]
        target = self._tree.link_name(path.removeprefix("/"))
        return target if target in self._plain else None

    def _device(self, name: str) -> BlockDevice | None:
        base = f"{_BLOCK}/{name}"
        sectors = self._tree.count(f"{base}/size")
        if not sectors:
            return None  # A loop device or drive without a medium.
        number = self._tree.word(f"{base}/dev") or ""
        self._numbers[number] = name
        slaves = self._tree.names(f"{base}/slaves")
        mapped = self._tree.word(f"{base}/dm/name") if name.startswith("dm-") else None
        if mapped:
            self._mapper[mapped] = name
        if self._tree.exists(f"{base}/partition"):
            slaves = [self._paths[name].split("/")[-2]]
        if name.startswith("loop"):
            slaves += self._below_loop(self._tree.word(f"{base}/loop/backing_file"))
        rotational = self._tree.flag(f"{base}/queue/rotational")
        path = self._paths[name]
        return BlockDevice(
            name=name,
            number=number,
            size_bytes=sectors * _SECTOR_BYTES,
            model=self._tree.word(f"{base}/device/model"),
            is_rotational=rotational,
            slaves=tuple(slaves),
            pci_devices=(*bdfs_in(path), *self._subsystem(path)),
            is_network=_NETWORK_PATH.search(f"/{path}") is not None,
        )

    def _below_loop(self, file: str | None) -> list[str]:
        mount = mount_of(self._mounts, file) if file and file.startswith("/") else None
        name = self._numbers.get(mount.number) or self._by_path(mount.source) if mount else None
        return [name] if name else []

    def _subsystem(self, path: str) -> tuple[str, ...]:
        """Return the functions of an NVMe subsystem's controllers: with multipath the disk itself is virtual."""
        place, slash, rest = path.partition("/nvme-subsystem/")
        if not slash:
            return ()
        base = f"{place}{slash}{rest.split('/')[0]}"
        controllers = [name for name in self._tree.names(base) if _NVME_CONTROLLER.fullmatch(name)]
        chains = [bdfs_in(self._tree.link_path(f"{base}/{name}") or "") for name in controllers]
        return tuple(bdf for chain in chains for bdf in chain)

    def _resolved(self, device: BlockDevice) -> BlockDevice:
        """Return a device with the hardware of everything below it."""
        below: dict[str, BlockDevice] = {}
        pending = [device.name]
        while pending:
            name = pending.pop()
            if name not in below and name in self._plain:
                below[name] = self._plain[name]
                pending += below[name].slaves
        hardware = sorted({bdf for each in below.values() for bdf in each.pci_devices})
        is_network = any(each.is_network for each in below.values())
        return replace(device, pci_devices=tuple(hardware), is_network=is_network)


def mount_of(mounts: list[Mount], path: str) -> Mount | None:
    """Return the mount that a path lies on; of several on one target the last covers the others."""
    best = None
    for mount in mounts:
        inside = path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
        if inside and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def _filesystems(tree: Tree, mounts: list[Mount], directories: Iterable[str]) -> list[Filesystem]:
    found = []
    for asked in directories:
        path = asked
        while path and not tree.is_directory(path):
            path = os.path.dirname(path)
        mount = mount_of(mounts, f"/{path}")
        size, available, inodes = tree.space(path) or (None, None, None)
        found.append(
            Filesystem(
                path=f"/{path}",
                asked_path=f"/{asked}",
                mount=mount.target if mount else None,
                type=mount.filesystem if mount else None,
                source=mount.source if mount else None,
                is_read_only="ro" in mount.options.split(",") if mount else None,
                size_bytes=size,
                available_bytes=available,
                available_inodes=inodes,
            )
        )
    return found


def _plain(text: str) -> str:
    """Return a name of /proc's tables with its octal escapes resolved."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
