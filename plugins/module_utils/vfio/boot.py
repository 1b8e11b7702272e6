# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bind at boot what is to be bound, before udev loads the devices' own drivers: `vllmd-vfio.service` runs this.

It reads the groups from one file and needs neither /var nor the network. A group is bound only when every address holds
the device it held and no endpoint has joined the group; a moved or added card is said and left to its own driver.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .binding import Binder, describe
from .record import FileStore, Group, Record, RecordError
from .sysfs import PCI, RealSysfs, Sysfs

DEVICES_PATH = "/etc/vllmd/vfio/devices.json"
_BRIDGE_CLASSES = ("0x0604", "0x0607", "0x0609")
_HOST_BRIDGE = "0x0600"


class BootStore:
    """The groups to bind as a record that nothing is written to: /var may not be there yet."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def load(self) -> Record:
        """Return the groups."""
        return self._record

    def save(self, record: Record) -> None:
        """Remember it for the length of this run."""
        self._record = record


def run(sysfs: Sysfs, record: Record, timeout_seconds: float = 30) -> tuple[list[str], bool]:
    """Bind the groups of ``record``. Returns lines for the journal, and whether all of them are bound."""
    lines, good = [], True
    for group in record.groups:
        binder = Binder(sysfs, BootStore(Record((group,))), timeout_seconds)
        fault = _fault(sysfs, binder, group)
        if fault:
            good = False
            steps, problems = binder.restore(group)
            lines.append("; ".join([fault, "its group is left to its own drivers", *steps, *problems]))
            continue
        result = binder.bind(group)
        good = good and result.action in ("bound", "unchanged")
        lines += describe([result]) or [f"{', '.join(sorted(group.bdfs))}: bound already"]
    return lines, good


def _fault(sysfs: Sysfs, binder: Binder, group: Group) -> str:
    """Return why a group is not what it was; an empty string when it is."""
    for device in group.devices:
        found = binder.identity(device.bdf)
        if found != device.identity:
            return f"{device.bdf} is {found or 'empty'}, not {device.identity}: a card was moved, run role vfio again"
        for member in sysfs.entries(f"{PCI}/devices/{device.bdf}/iommu_group/devices"):
            if member not in group.bdfs and not _is_bridge(sysfs, member):
                return f"{member} has joined the IOMMU group of {device.bdf}: run role vfio again"
    return ""


def _is_bridge(sysfs: Sysfs, bdf: str) -> bool:
    code = sysfs.read(f"{PCI}/devices/{bdf}/class") or ""
    has_driver = sysfs.link(f"{PCI}/devices/{bdf}/driver") is not None
    return code.startswith(_BRIDGE_CLASSES) or (code.startswith(_HOST_BRIDGE) and not has_driver)


def main(root: Path) -> int:
    """Run at boot. Returns the exit status."""
    try:
        record = FileStore(root / DEVICES_PATH.lstrip("/")).load()
    except RecordError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines, good = run(RealSysfs(root), record)
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "/")))
