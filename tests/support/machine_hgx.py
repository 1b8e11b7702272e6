"""The machine with eight GPUs on an HGX board."""

from __future__ import annotations

from tests.support.host_base import GIB
from tests.support.hosts import BRIDGE, ETHERNET, GPU, INFINIBAND, NVME, NVSWITCH, VGA, HostTree, Link
from tests.support.machine_parts import ACS_FULL, CONNECTX7, KIB, MIB, board, software

_H100, _SWITCH = "10de:2330", "1000:c030"
_HGX_GPUS = ("18", "2a", "3a", "5d", "9a", "ab", "ba", "db")


def hgx_h100() -> HostTree:
    """A dual-socket Intel server with an HGX H100 board that serves from the host itself today."""
    host = HostTree()
    host.x86("intel", "INTEL(R) XEON(R) PLATINUM 8480+", sockets=2, cores=56)
    host.memory(2048)
    host.node(0, "0-55,112-167", 1024, "10 21")
    host.node(1, "56-111,168-223", 1024, "21 10")
    host.hugepages(1048576, {0: (480, 480), 1: (480, 480)})
    host.hugepages(2048, {0: (0, 0), 1: (0, 0)})
    host.iommu("intel")
    board(host, "0000:00:00.0", "8086:09a2", 0)
    ast = host.pci("0000:00:1c.0", "8086:1bb8", BRIDGE, group=1, driver="pcieport", acs=ACS_FULL)
    bridge = host.pci("0000:01:00.0", "1a03:1150", BRIDGE, parent=ast, group=2)
    host.pci(
        "0000:02:00.0",
        "1a03:2000",
        VGA,
        parent=bridge,
        group=2,
        driver="ast",
        bars=(64 * MIB,),
        boot_vga=True,
        resets="",
    )
    _nvswitches(host)
    _hgx_trays(host)
    boot = host.pci("0000:3d:01.0", "8086:352a", BRIDGE, group=150, driver="pcieport", acs=ACS_FULL)
    drive = host.pci(
        "0000:3e:00.0",
        "144d:a80a",
        NVME,
        parent=boot,
        group=151,
        driver="nvme",
        bars=(16 * KIB,),
        link=Link(4, 4, 4, 4),
    )
    host.disk("nvme0n1", "259:0", drive, "nvme/nvme0", partitions=3)
    host.mapped(0, "vg0-root", ("nvme0n1p3",))
    host.mapped(1, "vg0-swap", ("nvme0n1p3",), gib=16)
    host.text(
        "proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-1                               partition\t16777212\t0\t-2",
    )
    for number, target, kind, source in (
        ("259:1", "/boot/efi", "vfat", "/dev/nvme0n1p1"),
        ("259:2", "/boot", "ext4", "/dev/nvme0n1p2"),
        ("253:0", "/", "ext4", "/dev/mapper/vg0-root"),
    ):
        host.mount(number, target, kind, source, (900, 700) if target == "/" else (1, 1))
    port = host.pci("0000:6d:01.0", "8086:352a", BRIDGE, group=160, driver="pcieport", acs=ACS_FULL)
    nics = [f"0000:6e:00.{index}" for index in (0, 1)]
    for index, bdf in enumerate(nics):
        host.pci(
            bdf, "8086:1593", ETHERNET, parent=port, group=161 + index, driver="ice", bars=(32 * MIB,), vfs=(128, 0)
        )
        host.nic(f"ens1f{index}", bdf, "ice")
    host.nic("bond0", None, speed=50000, lowers=("ens1f0", "ens1f1"))
    host.route("bond0")
    host.route("bond0", "192.0.2.0/24", gateway="")
    host.ssh()
    for minor, bus in enumerate(_HGX_GPUS):
        host.nvidia_gpu(f"0000:{bus}:00.0", minor, "NVIDIA H100 80GB HBM3")
    gpus = tuple(f"/dev/nvidia{minor}" for minor in range(8))
    host.process(1410, "nvidia-persiste", ("/dev/nvidiactl", *gpus), "nvidia-persistenced.service")
    host.process(1455, "nv-fabricmanage", ("/dev/nvidia-nvswitchctl",), "nvidia-fabricmanager.service")
    host.text(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
    )
    software(host, "uefi", "grub", "intel_iommu=on iommu=pt", ("nvidia 9000000 40 nvidia_uvm, Live 0x0",))
    host.iomem(("200000000000-2fffffffffff : PCI Bus 0000:00",))
    return host


def _nvswitches(host: HostTree) -> None:
    """Add the board's four NVSwitches behind a switch without isolation: they share a group."""
    port = host.pci("0000:00:0d.0", "8086:1bbc", BRIDGE, group=113, driver="pcieport", acs=ACS_FULL)
    upstream = host.pci("0000:03:00.0", "10b5:8749", BRIDGE, parent=port, group=114, driver="pcieport")
    for index in range(4):
        down = host.pci(f"0000:04:{index:02x}.0", "10b5:8749", BRIDGE, parent=upstream, group=114, driver="pcieport")
        bus = f"{5 + index:02x}"
        host.pci(
            f"0000:{bus}:00.0",
            "10de:22a3",
            NVSWITCH,
            parent=down,
            group=114,
            driver="nvidia-nvswitch",
            bars=(32 * MIB,),
            link=Link(2, 2, 3, 2),
        )


def _hgx_trays(host: HostTree) -> None:
    """Add eight root ports with a PCIe switch each: a GPU and an InfiniBand card below it."""
    for index, bus in enumerate(_HGX_GPUS):
        number, node, group = int(bus, 16), index // 4, 10 + index * 8
        port = host.pci(
            f"0000:{number - 3:02x}:01.0",
            "8086:352a",
            BRIDGE,
            group=group,
            node=node,
            driver="pcieport",
            acs=ACS_FULL,
            link=Link(),
        )
        up = host.pci(
            f"0000:{number - 2:02x}:00.0",
            _SWITCH,
            BRIDGE,
            parent=port,
            group=group + 1,
            node=node,
            driver="pcieport",
            link=Link(),
        )
        for slot, kind in ((0, "gpu"), (1, "nic")):
            down = host.pci(
                f"0000:{number - 1:02x}:{slot:02x}.0",
                _SWITCH,
                BRIDGE,
                parent=up,
                group=group + 2 + slot,
                node=node,
                driver="pcieport",
                acs=ACS_FULL,
            )
            if kind == "gpu":
                host.pci(
                    f"0000:{bus}:00.0",
                    _H100,
                    GPU,
                    parent=down,
                    group=group + 4,
                    node=node,
                    driver="nvidia",
                    bars=(16 * MIB, 0, 128 * GIB, 0, 32 * MIB),
                    link=Link(),
                    vfs=(16, 0),
                    subsystem="10de:16c1",
                    slot=f"GPU{index + 1}",
                )
            else:
                bdf = host.pci(
                    f"0000:{number + 1:02x}:00.0",
                    CONNECTX7,
                    INFINIBAND,
                    parent=down,
                    group=group + 5,
                    node=node,
                    driver="mlx5_core",
                    bars=(32 * MIB,),
                    link=Link(),
                    vfs=(16, 0),
                )
                host.nic(f"ibs{index}", bdf, "mlx5_core", speed=400000)
