# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From chosen devices to what must go with them: all functions of a card, all endpoints of its IOMMU groups.

Rules: Documentation/driver-api/vfio.rst. A group is the smallest unit that can be isolated, so its endpoints go
together; bridges stay with the host. A card's audio, USB and UCSI functions are reset with its GPU, so they go with it
even where the IOMMU could keep them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..host.model import Host, PciDevice
from .choose import Choice

CHOSEN, FUNCTION, SHARED = "chosen", "function", "shared"


@dataclass(frozen=True)
class Members:
    """The endpoints of one IOMMU group and why each is in it: chosen, a function of a chosen card, or merely there.

    ``group`` is None where there is no IOMMU. ``others`` are members that are no PCI devices or that cannot be read.
    """

    group: int | None
    devices: tuple[str, ...]
    reasons: dict[str, str]
    others: tuple[str, ...] = ()


def expand(host: Host, choice: Choice) -> list[Members]:
    """Return the groups of all chosen devices and of the other functions of their cards, in address order."""
    reasons = dict.fromkeys(choice.chosen, CHOSEN)
    for bdf in choice.chosen:
        for sibling in _functions(host, host.pci.devices[bdf]):
            reasons.setdefault(sibling, FUNCTION)
    groups: dict[int | None, set[str]] = {}
    for bdf in reasons:
        number = host.pci.devices[bdf].iommu_group
        groups.setdefault(number, set()).add(bdf)
    found = []
    for number, wanted in groups.items():
        listed = set(_listed(host, number))
        others = tuple(sorted(each for each in listed - wanted if each not in host.pci.devices))
        endpoints = {each for each in listed if each in host.pci.devices and not host.pci.devices[each].is_bridge}
        devices = tuple(sorted(endpoints | wanted))
        found.append(Members(number, devices, {bdf: reasons.get(bdf, SHARED) for bdf in devices}, others))
    return sorted(found, key=lambda each: each.devices)


def _functions(host: Host, device: PciDevice) -> list[str]:
    """Return the other functions of a card. A virtual function is a card of its own."""
    if device.physical_function is not None:
        return []
    return [
        each.bdf
        for each in host.pci.devices.values()
        if each.slot_address == device.slot_address
        and each.bdf != device.bdf
        and not each.is_bridge
        and each.physical_function is None
    ]


def _listed(host: Host, number: int | None) -> list[str]:
    """Return the members of a group as the group and as the devices themselves tell; either may be unreadable."""
    if number is None:
        return []
    group = host.iommu.groups.get(number)
    by_group = [*group.devices, *group.other_devices] if group else []
    return by_group + [each.bdf for each in host.pci.devices.values() if each.iommu_group == number]


def order(host: Host, devices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the devices of a group in the order to take them: consumers before what they depend on."""
    inside, ordered = set(devices), []

    def visit(bdf: str, above: frozenset[str]) -> None:
        for consumer in sorted(host.pci.devices[bdf].consumers, reverse=True):
            if consumer in inside and consumer not in above:
                visit(consumer, above | {bdf})
        if bdf not in ordered:
            ordered.append(bdf)

    for bdf in sorted(devices, reverse=True):
        visit(bdf, frozenset())
    return tuple(ordered)
