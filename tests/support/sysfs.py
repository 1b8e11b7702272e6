"""A host's /sys, /proc and /dev as far as the launcher reads them, made in a directory."""

from __future__ import annotations

import os
from pathlib import Path

GPU, AUDIO, BRIDGE, NVME = 0x030200, 0x040300, 0x060400, 0x010802
_MEMORY_64_PREFETCH = 0x14220C


class FakeHost:
    """Builds the tree piece by piece; `root` is what the launcher's readers take."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        (root / "sys/kernel/iommu_groups").mkdir(parents=True)
        (root / "sys/kernel/mm/hugepages").mkdir(parents=True)
        (root / "sys/bus/pci/devices").mkdir(parents=True)
        (root / "dev/vfio").mkdir(parents=True)
        (root / "proc/self/status").write_text("Name:\tpython3\nCapEff:\t0000000000004000\n")
        self.memory(64)

    def memory(self, gib: int) -> None:
        """Set the host's memory and its default huge page size of 2 MiB."""
        kib = gib * 1024 * 1024
        text = f"MemTotal:       {kib} kB\nMemAvailable:   {kib} kB\nHugePages_Total:  0\nHugepagesize:       2048 kB\n"
        (self.root / "proc/meminfo").write_text(text)

    def hugepages(self, size_kib: int, free: int) -> None:
        """Add a pool of huge pages."""
        pool = self.root / f"sys/kernel/mm/hugepages/hugepages-{size_kib}kB"
        pool.mkdir()
        (pool / "free_hugepages").write_text(f"{free}\n")

    def device(self, bdf: str, group: int | None, driver: str | None, kind: int = GPU, bar_bytes: int = 0) -> None:
        """Add a PCI function, in an IOMMU group and on a driver where they are given."""
        real = self.root / "sys/devices/pci0000:00" / bdf
        real.mkdir(parents=True)
        (real / "class").write_text(f"{kind:#08x}\n")
        lines = (
            [f"{0x4000000000:#018x} {0x4000000000 + bar_bytes - 1:#018x} {_MEMORY_64_PREFETCH:#018x}"]
            if bar_bytes
            else []
        )
        lines += ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * (13 - len(lines))
        (real / "resource").write_text("\n".join(lines) + "\n")
        _link(self.root / "sys/bus/pci/devices" / bdf, real)
        if driver:
            home = self.root / "sys/bus/pci/drivers" / driver
            home.mkdir(parents=True, exist_ok=True)
            _link(real / "driver", home)
        if group is not None:
            home = self.root / "sys/kernel/iommu_groups" / str(group)
            (home / "devices").mkdir(parents=True, exist_ok=True)
            _link(real / "iommu_group", home)
            _link(home / "devices" / bdf, real)
            (self.root / "dev/vfio" / str(group)).touch()


def _link(path: Path, target: Path) -> None:
    path.symlink_to(os.path.relpath(target, path.parent))
