# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Are the accelerators' memory ranges (BARs) placed, large, and where guests can have them?"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    AMD,
    GIB,
    MIB,
    NVIDIA,
    accelerators,
    each,
    gib,
    has_class,
    join,
    set_parameter,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice

_FOUR_GIB = 4 * GIB
_SMALL_BAR_BYTES = 256 * MIB  # what a data centre card shows when large BARs are switched off


@check(
    "bar-assigned",
    "device",
    "Every BAR of an accelerator has an address",
    why="The firmware ran out of address space below 4 GiB: the device is listed, but no driver and no guest can "
    "use it.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, pci=realloc",
)
def bar_assigned(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL for a BAR that has a size and no start."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        bars = [region for region in device.bars if region.index < 6 and region.size_bytes]
        if not bars:
            return unknown("the resource file, or it holds no BAR,")
        lost = [
            f"BAR {region.index} ({gib(region.size_bytes)})" for region in bars if not region.start and region.is_memory
        ]
        if not lost:
            return Outcome(PASS, f"{len(bars)} BARs, {gib(device.bars_bytes)}")
        return Outcome(
            FAIL,
            f"no address for {join(lost)}",
            "enable 'Above 4G Decoding' in the firmware setup; else: " + set_parameter(host, "pci=realloc"),
        )

    yield from each(found, map(judge, found))


@check(
    "bar-size",
    "device",
    "Accelerators show their memory as one large BAR",
    why="A compute card that shows 256 MiB of many GiB has Resizable BAR or 'Above 4G Decoding' off: "
    "peer-to-peer and fast loading do not work.",
    reference="PCI Express Base Specification, 7.8.6, Resizable BAR",
)
def bar_size(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN for a 3D controller (0302) of NVIDIA or AMD whose largest 64-bit BAR is 256 MiB or less."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        sizes = [region.size_bytes for region in device.bars if region.is_memory and region.index < 6]
        if not sizes:
            return unknown("the resource file, or it holds no BAR,")
        largest = max(sizes)
        if largest > _SMALL_BAR_BYTES or not has_class(device, "0302") or device.vendor_id not in (NVIDIA, AMD):
            return Outcome(PASS, f"largest BAR {gib(largest)}")
        return Outcome(
            WARN, f"largest BAR {gib(largest)}", "enable 'Above 4G Decoding' and 'Resizable BAR' in the firmware setup"
        )

    yield from each(found, map(judge, found))


@check(
    "mmio64",
    "device",
    "Large BARs lie above 4 GiB",
    why="The space below 4 GiB is shared by all devices of the host; eight GPUs with 64 GiB or more each fit "
    "only above it.",
    reference="ACPI specification, _CRS of PCI root bridges; /proc/iomem",
)
def mmio64(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN for a 64-bit BAR of 256 MiB or more below 4 GiB; FAIL where no root bus has a window above."""
    found = accelerators(host, policy)
    high = [window for window in host.pci.windows if window.start + window.size_bytes > _FOUR_GIB]
    remedy = "enable 'Above 4G Decoding' and enlarge 'MMIO High Size' in the firmware setup"

    def judge(device: PciDevice) -> Outcome:
        large = [
            region
            for region in device.bars
            if region.is_64bit and region.is_memory and region.size_bytes >= _SMALL_BAR_BYTES
        ]
        if not device.bars:
            return unknown("the resource file")
        if not large:
            return Outcome(PASS, "no large 64-bit BAR")
        low = [f"BAR {region.index} ({gib(region.size_bytes)})" for region in large if 0 < region.start < _FOUR_GIB]
        if low:
            status = FAIL if host.pci.windows and not high else WARN
            return Outcome(status, f"{join(low)} below 4 GiB", remedy)
        return Outcome(PASS, f"large BARs above 4 GiB: {len(large)}")

    yield from each(found, map(judge, found))


@check(
    "mmio64-window",
    "device",
    "Each root bus has room for the BARs below it",
    why="A window that is exactly full leaves no room for hot-plug or virtual functions, and an unplaced BAR "
    "makes a card useless.",
    reference="/proc/iomem; firmware setup, MMIO High Size",
)
def mmio64_window(host: Host, policy: Policy) -> Iterator[Outcome]:
    """Compare, for each root bus with accelerators, its windows above 4 GiB with the large BARs below it."""
    if not host.pci.windows:
        yield unknown("the PCI windows of /proc/iomem (root may)")
        return
    needed: dict[str, int] = {}
    for device in accelerators(host, policy):
        root = next((part[3:] for part in (device.path or "").split("/") if part.startswith("pci")), "")
        large = sum(
            region.size_bytes for region in device.bars if region.is_64bit and region.size_bytes >= _SMALL_BAR_BYTES
        )
        needed[root] = needed.get(root, 0) + large
    for root, size in sorted(needed.items()):
        windows = [item for item in host.pci.windows if item.bus == root]
        if not windows:
            yield Outcome(SKIP, "/proc/iomem names no window of this root bus", subject=root)
            continue
        room = sum(item.size_bytes for item in windows if item.start + item.size_bytes > _FOUR_GIB)
        evidence = f"large BARs {gib(size)}, window above 4 GiB {gib(room)}"
        if room >= size:
            yield Outcome(PASS, evidence, subject=root)
        else:
            yield Outcome(WARN, evidence, "enlarge 'MMIO High Size' in the firmware setup", root)


@check(
    "guest-mmio64",
    "device",
    "How large a guest's 64-bit window must be",
    why="The guest's firmware must place the same BARs: with a window too small the device is visible in the "
    "guest and does not start.",
    reference="QEMU: q35-pcihost.pci-hole64-size; OVMF: opt/ovmf/X-PciMmio64Mb",
)
def guest_mmio64(host: Host, policy: Policy) -> Outcome:
    """INFO with the numbers for one and for all accelerators."""
    sizes = [
        sum(region.size_bytes for region in device.bars if region.is_64bit) for device in accelerators(host, policy)
    ]
    if not sizes:
        return Outcome(SKIP, "no device here matches the policy's accelerator_* keys")
    one, everything = max(sizes), sum(sizes)
    window = 1 << max(2 * everything - 1, 1).bit_length()
    return Outcome(
        INFO,
        f"one accelerator {gib(one)}, all {len(sizes)} {gib(everything)}: a window of {gib(window)} holds all, aligned",
    )
