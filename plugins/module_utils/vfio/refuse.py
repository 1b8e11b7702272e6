# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Every reason not to give devices away, each with what to do about it. Nothing is written before all are answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..host.model import Host, OpenHandle, PciDevice
from .choose import Choice
from .critical import why_boot_display, why_critical
from .groups import SHARED, Members

NO_IOMMU, NO_INTERRUPT_REMAPPING = "no_iommu", "no_interrupt_remapping"
BOOT_DISPLAY, CRITICAL, SHARED_GROUP, EXCLUDED = "boot_display", "critical", "shared_group", "excluded"
IN_USE, VIRTUAL_FUNCTIONS, UNKNOWN, BRIDGE = "in_use", "virtual_functions", "unknown", "bridge"
_SHOWN_HANDLES = 5


@dataclass(frozen=True)
class Policy:
    """What the operator allows. ``vendor`` is the accelerators' vendor id, 4 lower-case hexadecimal digits."""

    vendor: str = "10de"
    boot_display: bool = False
    shared_groups: bool = False


@dataclass(frozen=True)
class Refusal:
    """A reason not to bind: which rule, device (empty: the host) and group, why, and what to do about it."""

    code: str
    bdf: str
    group: int | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return the refusal as one line."""
        return f"{self.bdf} {self.reason}; {self.remedy}".strip()


def refuse(host: Host, groups: Iterable[Members], choice: Choice, policy: Policy) -> list[Refusal]:
    """Return every reason not to bind these groups; none means that they may be bound."""
    groups = list(groups)
    refusals = _host(host, groups)
    for members in groups:
        refusals += _group(members)
        for bdf in members.devices:
            refusals += _device(host, members, host.pci.devices[bdf], choice, policy)
        if not is_bound(host, members):
            refusals += in_use(host, members)
    return refusals


def is_bound(host: Host, members: Members) -> bool:
    """Return whether every device of a group has its vfio driver already."""
    devices = [host.pci.devices[bdf] for bdf in members.devices]
    return all(device.driver is not None and device.driver == device.vfio_driver for device in devices)


def in_use(host: Host, members: Members) -> list[Refusal]:
    """Return a refusal for each device of a group that a process or a virtual function uses now."""
    refusals = []
    for bdf in members.devices:
        device = host.pci.devices[bdf]
        if device.handles:
            refusals.append(
                Refusal(IN_USE, bdf, members.group, f"is open in {_processes(device.handles)}", "stop them first")
            )
        sriov = device.sriov
        if sriov is not None and (sriov.num_vfs or sriov.virtual_functions):
            count = max(sriov.num_vfs or 0, len(sriov.virtual_functions))
            remedy = f"take them back first: echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs"
            refusals.append(Refusal(VIRTUAL_FUNCTIONS, bdf, members.group, f"has {count} virtual functions", remedy))
    return refusals


def _host(host: Host, groups: list[Members]) -> list[Refusal]:
    without = [bdf for members in groups if members.group is None for bdf in members.devices]
    if without or not host.iommu.units:
        why = f"{', '.join(without)} has no IOMMU group" if without else "the kernel drives no IOMMU"
        remedy = (
            "switch VT-d or AMD-Vi on in the firmware and, on Intel, add intel_iommu=on to the kernel's command line"
        )
        return [Refusal(NO_IOMMU, "", None, why, remedy)]
    if not host.iommu.interrupt_remapping:
        chip = host.iommu.interrupt_chip
        why = "interrupts are not remapped" if chip else "whether interrupts are remapped cannot be told"
        why += f" (interrupt chip {chip})" if chip else ""
        remedy = (
            "switch interrupt remapping (x2APIC) on in the firmware and remove intremap=off from the kernel's command "
            "line; a guest could otherwise raise any interrupt on the host"
        )
        return [Refusal(NO_INTERRUPT_REMAPPING, "", None, why, remedy)]
    return []


def _group(members: Members) -> list[Refusal]:
    if not members.others:
        return []
    reason = f"holds {', '.join(members.others)}, about which nothing is known"
    return [Refusal(UNKNOWN, "", members.group, f"IOMMU group {members.group} {reason}", "choose other devices")]


def _device(host: Host, members: Members, device: PciDevice, choice: Choice, policy: Policy) -> list[Refusal]:
    bdf, group = device.bdf, members.group
    refusals = []

    def add(code: str, reason: str, remedy: str) -> None:
        refusals.append(Refusal(code, bdf, group, reason, remedy))

    where = f"is in IOMMU group {group} and " if group is not None else ""
    if device.is_bridge:
        add(BRIDGE, "is a bridge, which stays with the host", "choose the devices behind it")
    if device.vendor_id is None or device.device_id is None:
        add(UNKNOWN, f"{where}has no readable vendor and device id", "look at it with lspci -nn")
    if bdf in choice.excluded:
        add(EXCLUDED, f"is excluded, yet it must go with {_with(members, bdf)}", "exclude these as well, or neither")
    if why := why_critical(host, device, policy.vendor):
        add(CRITICAL, where + why, "choose other devices, or free this one from its task first")
    for consumer in device.consumers:
        other = host.pci.devices.get(consumer)
        if other is not None and consumer not in members.devices and (why := why_critical(host, other, policy.vendor)):
            add(CRITICAL, f"is needed by {consumer}, which {why}", "choose other devices")
    if not policy.boot_display and (why := why_boot_display(host, device)):
        add(BOOT_DISPLAY, why, "set boot_display: true if the host may lose its console")
    if members.reasons[bdf] == SHARED and not policy.shared_groups and bdf not in choice.excluded:
        what = f"{device.id}, driver {device.driver or 'none'}"
        add(
            SHARED_GROUP,
            f"({what}) shares IOMMU group {group} with {_with(members, bdf)} and was not chosen",
            "choose it too, set shared_groups: true, or move the card to a slot with ACS",
        )
    return refusals


def _with(members: Members, bdf: str) -> str:
    return ", ".join(each for each in members.devices if each != bdf and members.reasons[each] != SHARED) or "its card"


def _processes(handles: tuple[OpenHandle, ...]) -> str:
    """Return each process once, with its command and the first thing it holds open."""
    by_pid = {handle.pid: handle for handle in reversed(handles)}
    shown = [f"process {pid} ({handle.command}, {handle.path})" for pid, handle in sorted(by_pid.items())]
    more = len(shown) - _SHOWN_HANDLES
    return ", ".join(shown[:_SHOWN_HANDLES]) + (f" and {more} more" if more > 0 else "")
