# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The IOMMU: firmware tables, units, groups, interrupt remapping, VFIO's switches.

Sources: Documentation/ABI/testing/sysfs-class-iommu*, sysfs-kernel-iommu_groups, driver-api/vfio.rst; VT-d and AMD
I/O virtualization specifications for the register bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .model import Iommu, IommuGroup, IommuUnit
from .tree import Tree, is_bdf, parse_integer

_TABLES = ("DMAR", "IVRS", "IORT", "VIOT")
_GROUPS = "sys/kernel/iommu_groups"
_STEM = re.compile(r"[a-z_-]+[a-z]")
_KINDS = {"dmar": "intel", "ivhd": "amd", "smmu": "smmu"}
# Intel: interrupt remapping is bit 3 of the extended capability, posted interrupts bit 59 of the capability register.
_INTEL_IR, _INTEL_PI = 1 << 3, 1 << 59
# AMD: guest virtual APIC is bit 7 of the extended feature register.
_AMD_GA = 1 << 7
_MOST_IRQS = 64
_CHIP = re.compile(r"\b(?:IR-(?:PCI-MSIX?|IO-APIC|HPET)|IO-APIC|PCI-MSIX?|ITS-(?:PCI-)?MSIX?|GICv2m)[-\w:.]*")


def read_iommu(tree: Tree) -> Iommu:
    """Return what is known of the IOMMU; without one there are no groups."""
    tables = set(tree.names("sys/firmware/acpi/tables"))
    units = tuple(_unit(tree, name) for name in tree.names("sys/class/iommu"))
    groups = {}
    for name in tree.names(_GROUPS):
        number = parse_integer(name)
        if number is not None and number >= 0:
            groups[number] = _group(tree, number)
    chip = _interrupt_chip(tree)
    return Iommu(
        acpi_tables=tuple(table for table in _TABLES if table in tables),
        units=units,
        groups=dict(sorted(groups.items())),
        default_domain=_default_domain(groups),
        interrupt_remapping=None if chip is None else chip.startswith(("IR-", "ITS-")),
        interrupt_remapping_supported=_all(_remaps(unit) for unit in units),
        interrupt_chip=chip,
        posted_interrupts_supported=_all(_posts(unit) for unit in units),
        unsafe_interrupts=tree.flag("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"),
        no_iommu=tree.flag("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
        dma_entry_limit=tree.count("sys/module/vfio_iommu_type1/parameters/dma_entry_limit"),
    )


def _unit(tree: Tree, name: str) -> IommuUnit:
    base = f"sys/class/iommu/{name}"
    stem = _STEM.match(name)
    kind = _KINDS.get(stem[0] if stem else name, stem[0] if stem else name)
    devices = tuple(each for each in tree.names(f"{base}/devices") if is_bdf(each))
    if kind == "intel":
        registers = f"{base}/intel-iommu"
        capability, extended = (tree.integer(f"{registers}/{each}", 16) for each in ("cap", "ecap"))
        return IommuUnit(name, kind, devices, tree.word(f"{registers}/version"), capability, extended)
    if kind == "amd":
        registers = f"{base}/amd-iommu"
        # Newer kernels print both feature registers, with a colon between them.
        features = (tree.text(f"{registers}/features") or "").partition(":")[0]
        return IommuUnit(name, kind, devices, None, tree.integer(f"{registers}/cap", 16), parse_integer(features, 16))
    return IommuUnit(name, kind, devices)


def _group(tree: Tree, number: int) -> IommuGroup:
    base = f"{_GROUPS}/{number}"
    members = tree.names(f"{base}/devices")
    return IommuGroup(
        id=number,
        devices=tuple(each for each in members if is_bdf(each)),
        other_devices=tuple(each for each in members if not is_bdf(each)),
        type=tree.word(f"{base}/type"),
        reserved_regions=tuple(tree.lines(f"{base}/reserved_regions")),
    )


def _default_domain(groups: dict[int, IommuGroup]) -> str | None:
    types = {group.type == "identity" for group in groups.values() if group.type}
    if len(types) > 1:
        return "mixed"
    return None if not types else "passthrough" if types == {True} else "translated"


def _interrupt_chip(tree: Tree) -> str | None:
    """Return the interrupt chip that tells whether interrupts are remapped.

    The IOMMUs' own interrupts never are, so one remapped interrupt decides; ITS is arm64's remapping.
    """
    plain = None
    numbers = sorted(number for number in map(parse_integer, tree.names("sys/kernel/irq")) if number is not None)
    chips = [tree.text(f"sys/kernel/irq/{number}/chip_name") or "" for number in numbers[:_MOST_IRQS]]
    if not any(chips):
        chips = _CHIP.findall(tree.text("proc/interrupts", 256 * 1024) or "")
    for chip in chips:
        if chip.startswith(("IR-", "ITS-")):
            return chip
        if plain is None and chip.startswith(("IO-APIC", "PCI-MSI", "GICv2m")):
            plain = chip
    return plain


def _remaps(unit: IommuUnit) -> bool | None:
    """Return whether a unit can remap interrupts: Intel says so, every AMD IOMMU can."""
    if unit.kind == "intel":
        return None if unit.extended_capability is None else bool(unit.extended_capability & _INTEL_IR)
    return True if unit.kind == "amd" else None


def _posts(unit: IommuUnit) -> bool | None:
    if unit.kind == "intel":
        return None if unit.capability is None else bool(unit.capability & _INTEL_PI)
    if unit.kind == "amd":
        return None if unit.extended_capability is None else bool(unit.extended_capability & _AMD_GA)
    return None


def _all(answers: Iterable[bool | None]) -> bool | None:
    """Return true when all units that answer say yes, None when none answers."""
    known = [answer for answer in answers if answer is not None]
    return all(known) if known else None
