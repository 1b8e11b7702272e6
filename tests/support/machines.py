#!/usr/bin/env python3
"""Four machines, with the ids and topologies that public ``lspci`` listings show for them.

    PYTHONPATH=collection:. tests/support/machines.py   # writes tests/unit/data/hosts/*.tree.json

- ``hgx-h100``: two sockets, eight GPUs behind PCIe switches, four NVSwitches that share one group, all in use
- ``epyc-l40s``: two GPUs right below root ports, on no driver, ready to be bound
- ``desktop``: a GPU with audio, USB and UCSI in one group with its root port, the boot display on another function
- ``grace-hopper``: arm64, SMMU, PCI domains, a variant vfio driver for the GPU
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.host_base import GIB
from tests.support.hosts import (
    AUDIO,
    BRIDGE,
    ETHERNET,
    GPU,
    HOST_BRIDGE,
    ISA,
    NVME,
    SATA,
    UCSI,
    VGA,
    XHCI,
    HostTree,
    Link,
)
from tests.support.machine_hgx import hgx_h100
from tests.support.machine_parts import ACS_FULL, CONNECTX7, KIB, MIB, board, drm, software
from tests.support.trees import dump

DATA = Path(__file__).parents[1] / "unit/data/hosts"
_L40S = "10de:26b9"


def epyc_l40s() -> HostTree:
    """A single-socket AMD server with two GPUs, prepared for passthrough and ready."""
    host = HostTree()
    host.x86("amd", "AMD EPYC 9354P 32-Core Processor", sockets=1, cores=32)
    host.memory(384)
    host.node(0, "0-63", 384, "10")
    host.hugepages(1048576, {0: (160, 160)})
    host.iommu("amd")
    board(host, "0000:00:00.0", "1022:14a4", 0)
    host.pci("0000:00:00.2", "1022:149e", 0x080600, resets="")
    for index, (bus, root) in enumerate((("01", "00"), ("41", "40"))):
        host.pci(f"0000:{root}:01.0", "1022:149f", HOST_BRIDGE, group=10 + index * 3, resets="")
        port = host.pci(
            f"0000:{root}:01.1",
            "1022:14ab",
            BRIDGE,
            group=11 + index * 3,
            driver="pcieport",
            acs=ACS_FULL,
            link=Link(4),
        )
        host.pci(
            f"0000:{bus}:00.0",
            _L40S,
            GPU,
            parent=port,
            group=12 + index * 3,
            bars=(16 * MIB, 64 * GIB, 0, 32 * MIB),
            link=Link(4, 16, 4, 16),
            vfs=(32, 0),
            subsystem="10de:169d",
            slot=str(index + 1),
        )
    port = host.pci("0000:80:03.1", "1022:14ab", BRIDGE, group=30, driver="pcieport", acs=ACS_FULL)
    for index in range(2):
        bdf = host.pci(
            f"0000:81:00.{index}",
            "14e4:16d7",
            ETHERNET,
            parent=port,
            group=31 + index,
            driver="bnxt_en",
            bars=(64 * KIB, 1 * MIB),
            vfs=(16, 0),
        )
        host.nic(f"enp129s0f{index}np{index}", bdf, "bnxt_en")
    port = host.pci("0000:c0:03.3", "1022:14ab", BRIDGE, group=40, driver="pcieport", acs=ACS_FULL)
    drive = host.pci(
        "0000:c1:00.0", "144d:a80a", NVME, parent=port, group=41, driver="nvme", bars=(16 * KIB,), link=Link(4, 4, 4, 4)
    )
    port = host.pci("0000:00:05.2", "1022:14aa", BRIDGE, group=42, driver="pcieport")
    bridge = host.pci("0000:02:00.0", "1a03:1150", BRIDGE, parent=port, group=43)
    host.pci(
        "0000:03:00.0",
        "1a03:2000",
        VGA,
        parent=bridge,
        group=43,
        driver="ast",
        bars=(64 * MIB,),
        boot_vga=True,
        resets="",
    )
    host.disk("nvme0n1", "259:0", drive, "nvme/nvme0", partitions=2)
    host.mount("259:1", "/boot/efi", "vfat", "/dev/nvme0n1p1", (1, 1))
    host.mount("259:2", "/", "ext4", "/dev/nvme0n1p2", (1700, 1500))
    host.route("enp129s0f0np0")
    host.route("enp129s0f0np0", "192.0.2.0/24", gateway="")
    host.ssh()
    software(host, "uefi", "systemd-boot", "iommu=pt", ("vfio_pci 16384 0 - Live 0x0", "kvm_amd 200000 0 - Live 0x0"))
    host.tree["etc/modprobe.d/vllmd-vfio.conf"] = "softdep nvidia pre: vfio-pci\nsoftdep nouveau pre: vfio-pci\n"
    host.tree["etc/modules-load.d/vllmd-vfio.conf"] = "vfio-pci\n"
    host.iomem(("200000000000-27ffffffffff : PCI Bus 0000:00", "280000000000-2fffffffffff : PCI Bus 0000:40"))
    return host


def desktop() -> HostTree:
    """A desktop whose GPU, its audio, USB and UCSI functions share one group with their root port."""
    host = HostTree()
    host.x86("intel", "Intel(R) Core(TM) i9-9900K CPU @ 3.60GHz", sockets=1, cores=8, bits=39)
    host.memory(64)
    host.node(0, "0-15", 64, "10")
    host.hugepages(2048, {0: (0, 0)})
    host.iommu("intel")
    host.pci("0000:00:00.0", "8086:3e30", HOST_BRIDGE, group=0, resets="")
    port = host.pci("0000:00:01.0", "8086:1901", BRIDGE, group=1, driver="pcieport", link=Link(1, 16, 3, 16))
    host.pci("0000:00:02.0", "8086:3e98", VGA, group=2, driver="i915", bars=(16 * MIB, 0, 256 * MIB), boot_vga=True)
    card: dict[str, Any] = {
        "parent": port,
        "group": 1,
        "subsystem": "1043:866a",
        "link": Link(1, 16, 3, 16),
        "resets": "bus",
    }
    host.pci(
        "0000:01:00.0",
        "10de:1e07",
        VGA,
        driver="nouveau",
        bars=(16 * MIB, 256 * MIB, 0, 32 * MIB),
        rom_bytes=512 * KIB,
        boot_vga=False,
        **card,
    )
    host.pci("0000:01:00.1", "10de:10f7", AUDIO, driver="snd_hda_intel", bars=(16 * KIB,), **card)
    host.pci("0000:01:00.2", "10de:1ad6", XHCI, driver="xhci_hcd", bars=(256 * KIB,), **card)
    host.pci("0000:01:00.3", "10de:1ad7", UCSI, driver="nvidia-gpu", bars=(4 * KIB,), **card)
    host.pci("0000:00:14.0", "8086:a36d", XHCI, group=3, driver="xhci_hcd", bars=(64 * KIB,))
    host.pci("0000:00:17.0", "8086:a352", SATA, group=4, driver="ahci", bars=(8 * KIB,))
    host.pci("0000:00:1f.0", "8086:a305", ISA, group=5, resets="")
    host.pci("0000:00:1f.3", "8086:a348", AUDIO, group=5, driver="snd_hda_intel", bars=(16 * KIB,))
    nic = host.pci("0000:00:1f.6", "8086:15bc", ETHERNET, group=5, driver="e1000e", bars=(128 * KIB,))
    port = host.pci("0000:00:1d.0", "8086:a330", BRIDGE, group=6, driver="pcieport", acs=ACS_FULL)
    drive = host.pci(
        "0000:04:00.0", "144d:a808", NVME, parent=port, group=7, driver="nvme", bars=(16 * KIB,), link=Link(3, 4, 3, 4)
    )
    host.disk("nvme0n1", "259:0", drive, "nvme/nvme0", partitions=2, gib=931)
    host.mount("259:1", "/boot/efi", "vfat", "/dev/nvme0n1p1", (1, 1))
    host.mount("259:2", "/", "ext4", "/dev/nvme0n1p2", (900, 300))
    host.nic("eno1", nic, "e1000e", speed=1000)
    host.route("eno1")
    host.text("proc/fb", "0 i915drmfb")
    place = host.places["0000:00:02.0"]
    host.link("sys/class/graphics/fb0", f"{place}/graphics/fb0")
    host.directory(f"{place}/graphics/fb0")
    drm(host, "0000:00:02.0", 0, 128)
    drm(host, "0000:01:00.0", 1, 129)
    sound = host.places["0000:01:00.1"]
    host.link("sys/class/sound/controlC1", f"{sound}/sound/card1/controlC1")
    host.directory(f"{sound}/sound/card1/controlC1")
    host.link(f"{sound}/supplier:pci:0000:01:00.0", "sys/devices/virtual/devlink/pci:0000:01:00.0--pci:0000:01:00.1")
    host.link(
        f"{host.places['0000:01:00.0']}/consumer:pci:0000:01:00.1",
        "sys/devices/virtual/devlink/pci:0000:01:00.0--pci:0000:01:00.1",
    )
    host.process(2201, "Xorg", ("/dev/dri/card0", "/dev/dri/card1"), "gdm.service")
    host.process(2310, "pipewire", ("/dev/snd/controlC1",))
    software(host, "uefi", "grub", "quiet splash intel_iommu=on", ("nouveau 3000000 2 - Live 0x0",))
    host.iomem(("200000000000-207fffffffff : PCI Bus 0000:00",))
    return host


def grace_hopper() -> HostTree:
    """An arm64 superchip: each controller is its own PCI domain, the GPU's memory is NUMA nodes without CPUs."""
    host = HostTree(kernel="6.12.43+deb13-arm64-16k")
    host.arm64(0x41, 0xD4F, sockets=1, cores=72)
    host.memory(480, page_kib=2048)
    host.node(0, "0-71", 480, "10 80")
    host.node(1, "", 96, "80 10")
    host.hugepages(2048, {0: (0, 0), 1: (0, 0)})
    host.iommu("smmu")
    gpu = host.pci("0009:00:00.0", "10de:22b1", BRIDGE, group=20, driver="pcieport", acs=ACS_FULL)
    host.pci(
        "0009:01:00.0",
        "10de:2342",
        GPU,
        parent=gpu,
        group=21,
        driver="nvidia",
        bars=(16 * MIB, 0, 128 * GIB, 0, 32 * MIB),
        link=Link(4, 1, 5, 16),
        subsystem="10de:16eb",
    )
    port = host.pci("0000:00:00.0", "10de:22b2", BRIDGE, group=10, driver="pcieport", acs=ACS_FULL)
    nic = host.pci(
        "0000:01:00.0",
        CONNECTX7,
        ETHERNET,
        parent=port,
        group=11,
        driver="mlx5_core",
        bars=(32 * MIB,),
        link=Link(),
        vfs=(16, 0),
    )
    port = host.pci("0004:00:00.0", "10de:22b8", BRIDGE, group=12, driver="pcieport", acs=ACS_FULL)
    drive = host.pci(
        "0004:01:00.0", "1344:51c3", NVME, parent=port, group=13, driver="nvme", bars=(16 * KIB,), link=Link(4, 4, 4, 4)
    )
    port = host.pci("0008:00:00.0", "10de:22b9", BRIDGE, group=14, driver="pcieport")
    bridge = host.pci("0008:01:00.0", "1a03:1150", BRIDGE, parent=port, group=15)
    host.pci(
        "0008:02:00.0",
        "1a03:2000",
        VGA,
        parent=bridge,
        group=15,
        driver="ast",
        bars=(64 * MIB,),
        boot_vga=True,
        resets="",
    )
    host.disk("nvme0n1", "259:0", drive, "nvme/nvme0", partitions=2, gib=3576)
    host.mount("259:1", "/boot/efi", "vfat", "/dev/nvme0n1p1", (1, 1))
    host.mount("259:2", "/", "ext4", "/dev/nvme0n1p2", (3500, 3200))
    host.nic("enP0p1s0np0", nic, "mlx5_core", speed=200000)
    host.route("enP0p1s0np0")
    host.ssh()
    host.nvidia_gpu("0009:01:00.0", 0, "NVIDIA GH200 480GB")
    host.process(900, "nvidia-persiste", ("/dev/nvidiactl", "/dev/nvidia0"), "nvidia-persistenced.service")
    software(host, "uefi", "grub", "", ("nvidia 9000000 3 - Live 0x0",))
    host.tree[f"lib/modules/{host.kernel}/modules.alias"] = (
        "alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n"
        "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
    )
    host.iomem(("200000000000-2fffffffffff : PCI Bus 0009:00",))
    return host


MACHINES: dict[str, Callable[[], HostTree]] = {
    "hgx-h100": hgx_h100,
    "epyc-l40s": epyc_l40s,
    "desktop": desktop,
    "grace-hopper": grace_hopper,
}


if __name__ == "__main__":
    for name, make in MACHINES.items():
        (DATA / f"{name}.tree.json").write_text(dump(make().tree), encoding="utf-8")
