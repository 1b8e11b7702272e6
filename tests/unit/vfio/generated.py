"""Random hosts with the truth about them: which functions the host lives on, whatever its files say.

A host is built whole, and then some of its files are lost or turned into garbage. Decisions are made from what is left
and judged by the truth.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from random import Random

from tests.support.hosts import (
    AUDIO,
    BRIDGE,
    ETHERNET,
    GIB,
    GPU,
    ISA,
    NVME,
    NVSWITCH,
    SATA,
    SYSTEM,
    UCSI,
    VGA,
    XHCI,
    HostTree,
)
from tests.support.simulated_sysfs import Function
from tests.support.trees import CAPTURED, Tree

_GARBAGE: tuple[object, ...] = (
    *("", "\n", "garbage\n", "0x\n", "-1\n", "99999999999999999999\n", "(null)\n", "a b c d e f g h i j\n"),
    *({"hex": "fffe00ff80"}, {"dir": True}, {"link": "nowhere"}, {"link": "."}, {"size": 5000}),
)
_FILLERS = {AUDIO: "snd_hda_intel", XHCI: "xhci_hcd", UCSI: "ucsi_ccg"}
_OTHERS = (
    *((ETHERNET, "8086:1533", "igb"), (NVME, "144d:a80a", "nvme"), (SATA, "8086:a182", "ahci")),
    *((XHCI, "8086:a12f", "xhci_hcd"), (ISA, "8086:a150", "lpc_ich"), (SYSTEM, "8086:2021", None)),
    *((NVSWITCH, "10de:22a3", "nvidia-nvswitch"), (VGA, "1a03:2000", "ast"), (GPU, "1002:740f", "amdgpu")),
)
_REFUSALS = (errno.EINVAL, errno.EBUSY, errno.ENODEV, errno.EIO)


@dataclass
class Generated:
    """A host's files, its functions as the kernel has them, what must never be bound, and who goes with whom."""

    tree: Tree
    functions: list[Function]
    vital: set[str] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


def generate(random: Random, *, garbage: bool) -> Generated:
    """Return a host of one to seven cards; ``garbage`` loses or spoils some of its files."""
    host = HostTree()
    host.x86(random.choice(("intel", "amd")), "A processor", 1, 2, threads=1)
    if random.random() < 0.97:
        host.iommu("intel", remapping=random.random() < 0.95)
    made = Generated(host.tree, [])
    groups = random.random() < 0.97
    cards = random.randint(1, 7)
    root_disk = root_nic = False
    for number in range(cards):
        bus = number + 1
        port = f"0000:00:{bus:02x}.0"
        host.pci(port, "8086:352a", BRIDGE, parent=None, driver="pcieport", group=100 + number if groups else None)
        made.functions.append(Function(port, "8086:352a", "pcieport", None, ("pcieport",)))
        # A group of its own for each function, for each card, or one that several cards share.
        style = random.choice((*("card",) * 8, "function", "function", "shared", "port"))
        group = {"shared": 50, "port": 100 + number}.get(style, 10 + 8 * number)
        address = f"0000:{bus:02x}:00"
        for index, (kind, ids, driver) in enumerate(_card(random)):
            bdf = f"{address}.{index}"
            own = group + index if style == "function" else group
            boot_vga = random.random() < 0.2 if kind == VGA else None
            vfs = random.choice((None, *((16, 0),) * 18, (16, 2)))
            host.pci(
                bdf,
                ids,
                kind,
                parent=port,
                driver=driver,
                group=own if groups else None,
                bars=(GIB,) if kind in (GPU, VGA) else (),
                boot_vga=boot_vga,
                vfs=vfs if kind == GPU else None,
            )
            made.ids[bdf], made.classes[bdf] = ids, kind
            if boot_vga:
                made.vital.add(bdf)
            if kind in (ISA, SYSTEM):
                made.vital.add(bdf)
            if kind in (NVME, SATA) and not root_disk:
                root_disk = True
                made.vital.add(bdf)
                host.disk("nvme0n1", "259:0", bdf, "nvme/nvme0", partitions=2)
                host.mount("259:1", "/", "ext4", "/dev/nvme0n1p1")
            if kind == ETHERNET and not root_nic:
                root_nic = True
                made.vital.add(bdf)
                host.nic("eth0", bdf)
                host.route("eth0")
            if driver and random.random() < 0.02:
                node = f"/dev/nvidia{number}" if kind == GPU else f"/dev/thing{number}"
                host.process(1000 + number, "python3", (node,))
                if kind == GPU:
                    host.nvidia_gpu(bdf, number, "A GPU")
            made.functions.append(_function(random, bdf, ids, driver))
    if garbage:
        _spoil(random, host.tree)
    return made


def _card(random: Random) -> list[tuple[int, str, str | None]]:
    if random.random() < 0.35:
        return [random.choice(_OTHERS)]
    kind = random.choice((GPU, GPU, VGA))
    driver = random.choice((*("nvidia",) * 4, "nouveau", "nouveau", None, "vfio-pci"))
    card: list[tuple[int, str, str | None]] = [(kind, random.choice(("10de:2330", "10de:2235")), driver)]
    for filler, ids in ((AUDIO, "10de:22ba"), (XHCI, "10de:1ad8"), (UCSI, "10de:1ad9")):
        if random.random() < 0.4:
            card.append((filler, ids, random.choice((_FILLERS[filler], None))))
    return card


def _function(random: Random, bdf: str, ids: str, driver: str | None) -> Function:
    """Return the function as the kernel has it, sometimes with a fault."""
    natives = tuple(dict.fromkeys(name for name in (random.choice(("nouveau", None)), driver) if name))
    natives = tuple(name for name in natives if name != "vfio-pci")
    override = "vfio-pci" if driver == "vfio-pci" else None
    function = Function(bdf, ids, driver, override, natives)
    fault = random.random()
    if fault < 0.05:
        function.refused_by = {"vfio-pci": random.choice(_REFUSALS)}
    elif fault < 0.10:
        function.polls_to_leave = random.choice((1, 5, 10**6))
    return function


def _spoil(random: Random, tree: Tree) -> None:
    paths = sorted(path for path in tree if path != CAPTURED)
    for path in random.sample(paths, min(len(paths), random.randint(1, 12))):
        if random.random() < 0.4:
            del tree[path]
        else:
            tree[path] = random.choice(_GARBAGE)  # type: ignore[assignment]
