"""Passthrough devices: from /dev/vfio/N, a PCI address or a sysfs path to the endpoints of whole IOMMU groups.

Rules: Documentation/driver-api/vfio.rst. A group is the smallest unit that can be isolated, so each of its endpoints
goes to the same guest; bridges stay with the host.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vllmd_hypervisor.errors import ValueProblem

_BDF = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_GROUP = re.compile(r"/dev/vfio/([0-9]{1,9})")
_BRIDGE_CLASSES = (0x0604, 0x0607)  # PCI-to-PCI and CardBus bridges
_IO_RESOURCE_MEMORY = 0x200


@dataclass(frozen=True)
class Endpoint:
    """One PCI function that the guest gets: its address, IOMMU group and the bytes of its memory BARs."""

    bdf: str
    group: int
    bar_bytes: int


def expand_devices(devices: tuple[str, ...], root: Path = Path("/")) -> tuple[list[Endpoint], list[str]]:
    """Return the endpoints of all groups named, in address order, and one sentence for each fault found."""
    endpoints: dict[str, Endpoint] = {}
    problems: list[str] = []
    for device in devices:
        try:
            group = _group_of(device, root)
            found, faults = _read_group(device, group, root)
        except (ValueProblem, OSError) as problem:
            problems.append(f"device {device}: {problem}")
            continue
        endpoints |= {endpoint.bdf: endpoint for endpoint in found}
        problems += faults
    return [endpoints[bdf] for bdf in sorted(endpoints)], problems


def normalise_bdf(text: str) -> str | None:
    """Return `0000:01:00.0` for `01:00.0` or `0000:01:00.0` in any case; None when it is no PCI address."""
    match = _BDF.fullmatch(text.lower())
    return f"{match[1] or '0000'}:{match[2]}:{match[3]}.{match[4]}" if match else None


def _group_of(device: str, root: Path) -> int:
    by_group = _GROUP.fullmatch(device)
    if by_group:
        group = int(by_group[1])
        if not (root / "sys/kernel/iommu_groups" / str(group)).is_dir():
            raise ValueProblem(f"there is no IOMMU group {group} on this host")
        return group
    bdf = normalise_bdf(device) or (normalise_bdf(Path(device).name) if device.startswith("/sys/") else None)
    if bdf is None:
        raise ValueProblem(
            "is neither /dev/vfio/GROUP, nor an address like 0000:01:00.0, nor a /sys/bus/pci/devices path"
        )
    path = _pci_device(bdf, root)
    if not path.exists():
        raise ValueProblem(f"there is no PCI device {bdf} on this host")
    if not (path / "iommu_group").exists():
        raise ValueProblem("has no IOMMU group: the IOMMU is off in the firmware or on the kernel's command line")
    return int((path / "iommu_group").resolve().name)


def _pci_device(bdf: str, root: Path) -> Path:
    return root / "sys/bus/pci/devices" / bdf


def _read_group(device: str, group: int, root: Path) -> tuple[list[Endpoint], list[str]]:
    endpoints: list[Endpoint] = []
    problems: list[str] = []
    for entry in sorted((root / "sys/kernel/iommu_groups" / str(group) / "devices").iterdir()):
        path = _pci_device(entry.name, root)
        if int((path / "class").read_text(encoding="ascii"), 16) >> 8 in _BRIDGE_CLASSES:
            continue
        fault = _driver_fault(path)
        if fault:
            problems.append(f"device {device}: {entry.name} in IOMMU group {group} {fault}")
        endpoints.append(Endpoint(entry.name, group, _bar_bytes(path)))
    if not endpoints:
        problems.append(f"device {device}: IOMMU group {group} holds no endpoint, only bridges")
    node = root / "dev/vfio" / str(group)
    if not problems and not node.exists():
        problems.append(f"device {device}: {node} does not exist; is the module vfio-pci loaded?")
    elif not problems and not os.access(node, os.R_OK | os.W_OK):
        problems.append(f"device {device}: no permission to open {node}; give this user read and write access to it")
    return endpoints, problems


def _driver_fault(path: Path) -> str:
    """Return what keeps a function from the guest, or an empty string."""
    remedy = "bind the whole group to vfio-pci"
    if not (path / "driver").exists():
        return f"has no driver; {remedy}"
    driver = (path / "driver").resolve().name
    # Variant drivers carry vfio in their names (mlx5_vfio_pci, nvgrace-gpu-vfio-pci) or register a vfio device.
    if "vfio" in driver or (path / "vfio-dev").exists():
        return ""
    return f"is bound to {driver}, not to vfio-pci; {remedy}"


def _bar_bytes(path: Path) -> int:
    """Return the bytes of a function's memory BARs from its `resource` file (start, end, flags in hexadecimal)."""
    total = 0
    try:
        lines = (path / "resource").read_text(encoding="ascii").splitlines()[:6]
    except FileNotFoundError:
        return 0
    for line in lines:
        start, end, flags = (int(field, 16) for field in line.split())
        if flags & _IO_RESOURCE_MEMORY and end > start:
            total += end - start + 1
    return total
