"""Random hosts for hypothesis: any topology, groups, drivers and uses, then files missing or full of garbage.

`host_trees` makes trees for `trees.materialise`; `hosts.host_of` reads one. With ``garbage=False`` nothing is missing
or wrong, for tests that need the files to agree with each other.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.host_base import GIB
from tests.support.hosts import AUDIO, BRIDGE, ETHERNET, GPU, NVME, NVSWITCH, VGA, XHCI, HostTree, Link
from tests.support.trees import Entry, Tree

_KINDS: dict[int, tuple[tuple[str, ...], tuple[str | None, ...]]] = {
    GPU: (("10de:2330", "10de:26b9", "1002:74a1"), ("nvidia", "nouveau", "vfio-pci", None)),
    VGA: (("10de:1e07", "1a03:2000", "8086:3e98"), ("nouveau", "ast", "i915", None)),
    AUDIO: (("10de:10f7",), ("snd_hda_intel", "vfio-pci", None)),
    XHCI: (("10de:1ad6", "8086:a36d"), ("xhci_hcd", None)),
    NVSWITCH: (("10de:22a3",), ("nvidia-nvswitch", "vfio-pci", None)),
    ETHERNET: (("8086:1593", "15b3:1021"), ("ice", "mlx5_core", None)),
    NVME: (("144d:a80a",), ("nvme", "vfio-pci", None)),
}
_MOST_PORTS, _MOST_FUNCTIONS = 6, 4
_GARBAGE: tuple[Entry, ...] = (
    *("", "\n", "garbage\n", "0x\n", "-1\n", "0xffffffffffffffffffff\n", "1_0\n", "+1\n", "99999999999999999999999\n"),
    *("a b c\n" * 3, "0-\n", "9-1\n", "0-99999999\n", "=\n", "[\n", "\0\0\0", "nan GT/s\n", "\u00e9\u2028\n"),
    *({"hex": "fffe80"}, {"hex": "00" * 5000}, {"dir": True}, {"link": "nowhere"}, {"link": "."}, {"link": "/"}),
)
#: Files that need not be there at all, to be filled with garbage.
_MORE_PATHS = (
    *("proc/fb", "proc/iomem", "proc/modules", "proc/interrupts", "proc/self/mountinfo", "proc/self/environ"),
    *("proc/self/limits", "proc/net/route", "proc/net/ipv6_route", "proc/net/tcp", "proc/net/tcp6", "proc/swaps"),
    *("etc/default/grub", "etc/modprobe.d/x.conf", "etc/group", "etc/passwd", "etc/localtime", "etc/os-release"),
    *("var/lib/dpkg/status", "etc/security/limits.conf", ".captured.json", "sys/class/net/eth9/speed"),
    *("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "proc/driver/nvidia/version"),
    *("sys/class/iommu/dmar9/intel-iommu/ecap", "sys/kernel/iommu_groups/x/type", "sys/bus/pci/devices/nothing"),
    *(
        "sys/devices/system/node/node0/meminfo",
        "sys/class/block/dm-9/slaves/sda",
        "dev/vfio/9",
        "proc/2/task/2/children",
    ),
)


@st.composite
def host_trees(draw: st.DrawFn, *, garbage: bool = True) -> Tree:
    """Make a host's tree. With ``garbage`` some of its files are missing and some hold what no kernel writes."""
    host = HostTree()
    _machine(draw, host)
    functions = [each for port in range(draw(st.integers(0, _MOST_PORTS))) for each in _port(draw, host, port)]
    _uses(draw, host, functions)
    tree = host.tree
    if garbage:
        _spoil(draw, tree)
    return tree


def _machine(draw: st.DrawFn, host: HostTree) -> None:
    kind = draw(st.sampled_from(["intel", "amd", "smmu", None]))
    if kind == "smmu":
        host.arm64(0x41, 0xD4F, sockets=1, cores=2)
    else:
        host.x86(kind or "intel", "CPU", sockets=draw(st.integers(1, 2)), cores=2)
    host.memory(64)
    host.node(0, "0-1", 64, "10")
    host.hugepages(2048, {0: (8, draw(st.integers(0, 8)))})
    if kind:
        host.iommu(kind, remapping=draw(st.booleans()))
    host.text(
        "proc/cmdline", draw(st.sampled_from(["quiet", "intel_iommu=on iommu=pt", "mitigations=off amd_iommu=off"]))
    )
    host.text("proc/sys/kernel/osrelease", host.kernel)
    host.tree[f"lib/modules/{host.kernel}/modules.alias"] = (
        "alias vfio_pci:v000010DEd00002330sv*sd*bc*sc*i* variant_vfio_pci\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
    )


def _port(draw: st.DrawFn, host: HostTree, index: int) -> list[tuple[str, int]]:
    """Add a root port with the functions of one card; returns (address, class) of each."""
    has_iommu = "sys/kernel/irq/1/chip_name" in host.tree
    own_group = 10 + index * 10
    shared = draw(st.sampled_from([own_group, own_group, 10]))  # A port without isolation shares one with others.
    acs = draw(st.sampled_from([None, (0x1F, 0x1D)]))
    port = host.pci(f"0000:00:{index + 1:02x}.0", "8086:352a", BRIDGE, group=shared if has_iommu else None, acs=acs)
    found = []
    is_single = draw(st.booleans())
    for function in range(1 if is_single else draw(st.integers(1, _MOST_FUNCTIONS))):
        class_code = draw(st.sampled_from(sorted(_KINDS)))
        ids, drivers = _KINDS[class_code]
        group = draw(st.sampled_from([shared, own_group + 1, own_group + 1 + function])) if has_iommu else None
        bdf = host.pci(
            f"0000:{index + 1:02x}:00.{function}",
            draw(st.sampled_from(ids)),
            class_code,
            parent=port,
            driver=draw(st.sampled_from(drivers)),
            group=group,
            node=draw(st.integers(-1, 1)),
            bars=draw(st.sampled_from([(), (4096,), (1 << 24, 0, 64 * GIB)])),
            link=draw(st.sampled_from([None, Link(), Link(1, 1, 5, 16)])),
            resets=draw(st.sampled_from(["", "bus", "flr bus", "pm"])),
            boot_vga=draw(st.booleans()) if class_code == VGA else None,
            vfs=draw(st.sampled_from([None, (16, 0), (16, 2)])),
        )
        found.append((bdf, class_code))
    return found


def _uses(draw: st.DrawFn, host: HostTree, functions: list[tuple[str, int]]) -> None:
    """Let the host run on some of the functions: disks, swap, network, displays, open files."""
    host.tree["proc/swaps"] = "Filename\tType\tSize\tUsed\tPriority\n"
    drives = [bdf for bdf, class_code in functions if class_code == NVME]
    for index, bdf in enumerate(drives):
        host.disk(f"nvme{index}n1", f"259:{index * 8}", bdf, f"nvme/nvme{index}", partitions=2, gib=100)
    if drives and draw(st.booleans()):
        host.mapped(0, "vg0-root", tuple(f"nvme{index}n1p1" for index in range(len(drives))))
        host.mount("253:0", "/", "ext4", "/dev/mapper/vg0-root", (100, 50))
    elif drives and draw(st.booleans()):
        host.mount("259:1", "/", "xfs", "/dev/nvme0n1p1", (100, 50))
    if drives and draw(st.booleans()):
        host.tree["proc/swaps"] = f"{host.tree['proc/swaps']}/dev/nvme0n1p2 partition 1024 0 -2\n"
    for index, (bdf, _kind) in enumerate(each for each in functions if each[1] == ETHERNET):
        host.nic(f"eth{index}", bdf, "ice")
        if draw(st.booleans()):
            host.route(f"eth{index}")
    if draw(st.booleans()):
        host.ssh()
    gpus = [bdf for bdf, class_code in functions if class_code == GPU]
    for minor, bdf in enumerate(gpus):
        if draw(st.booleans()):
            host.nvidia_gpu(bdf, minor, "GPU")
            host.process(
                100 + minor,
                "python3",
                (f"/dev/nvidia{minor}", "/dev/nvidiactl"),
                draw(st.none() | st.just("x.service")),
            )
    for bdf, _kind in functions:
        if draw(st.integers(0, 9)) == 0:
            host.process(500 + len(host.tree), "dpdk", (f"/{host.places[bdf]}/resource0",))


def _spoil(draw: st.DrawFn, tree: Tree) -> None:
    """Take files away and put garbage into others."""
    paths = st.sampled_from(sorted(tree))
    for path in draw(st.lists(paths, max_size=12, unique=True)):
        tree.pop(path, None)
    damaged = paths | st.sampled_from(_MORE_PATHS)
    damage: list[tuple[str, Any]] = draw(st.lists(st.tuples(damaged, st.sampled_from(_GARBAGE)), max_size=16))
    for path, entry in damage:
        tree[path] = entry
