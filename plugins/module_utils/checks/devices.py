# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is each accelerator a device that can be handed over: reset, free of the console, linked at full speed?"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    each,
    group_endpoints,
    join,
    set_parameter,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice, PciLink

_COHERENT = "nvgrace"  # the VFIO driver of Grace Hopper and Grace Blackwell
_OWN_RESETS = ("flr", "af_flr", "device_specific", "acpi")


@check(
    "reset-method",
    "device",
    "Each accelerator can be reset by itself",
    why="Between two guests the device must forget everything. Without a reset of its own it keeps memory and "
    "state of the "
    "previous tenant, or never starts again.",
    reference="Linux: Documentation/ABI/testing/sysfs-bus-pci, reset_method",
)
def reset_method(host: Host, policy: Policy) -> Iterator[Outcome]:
    """PASS for a function's own reset; a bus reset is as good where the bus holds nothing else."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        methods = device.resets
        own = [method for method in methods if method in _OWN_RESETS]
        if own:
            return Outcome(PASS, f"methods {join(methods)}")
        if "bus" in methods or "cxl_bus" in methods:
            below = device.upstream[-1] if device.upstream else None
            mates = [
                other.bdf
                for other in host.pci.devices.values()
                if below
                and other.upstream
                and other.upstream[-1] == below
                and other.slot_address != device.slot_address
            ]
            if mates:
                return Outcome(
                    RISK, f"only a bus reset, which also resets {join(mates)}", "move the card below a port of its own"
                )
            return Outcome(PASS, f"methods {join(methods)}, and the bus holds only this card")
        if methods:
            return Outcome(
                WARN,
                f"only {join(methods)}, which may keep state",
                "update the card's firmware; lspci -vvv -s {subjects} shows FLReset",
            )
        if device.can_reset is None:
            return unknown("the reset methods")
        if device.can_reset:
            return Outcome(PASS, "can be reset; this kernel does not list the methods")
        return Outcome(RISK, "no reset method", "update the card's firmware, or reboot the host between two tenants")

    yield from each(found, map(judge, found))


@check(
    "boot-display",
    "device",
    "No accelerator shows the host's console",
    why="The device that the firmware drew on goes dark for the host, and its ROM was already run: guests often "
    "fail on it.",
    reference="Linux: Documentation/ABI/testing/sysfs-bus-pci, boot_vga",
)
def boot_display(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL for the boot display, RISK for one with a monitor plugged in."""
    found = accelerators(host, policy)
    remedy = (
        "make the onboard graphics the primary display in the firmware setup, or list the card in accelerator_except"
    )

    def judge(device: PciDevice) -> Outcome:
        if device.boot_vga or host.graphics.boot_display == device.bdf:
            return Outcome(FAIL, "the boot display", remedy)
        if device.bdf in host.graphics.connected:
            return Outcome(WARN, "a monitor is plugged in", "plug the monitor into the onboard graphics")
        return Outcome(PASS, "not the boot display")

    yield from each(found, map(judge, found))


@check(
    "framebuffer",
    "device",
    "No framebuffer of the host lies in an accelerator's BAR",
    why="efifb and simplefb keep the BAR claimed even when no driver is bound: VFIO then fails with 'can't reserve'.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, video; /proc/iomem",
)
def framebuffer(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL when /proc/fb or /proc/iomem shows one."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        names = {claim.name for claim in host.graphics.claims if claim.bdf == device.bdf}
        names |= {item.name for item in host.graphics.framebuffers if item.bdf == device.bdf}
        if not names:
            return Outcome(PASS, "none")
        return Outcome(FAIL, f"held by {join(sorted(names))}", set_parameter(host, "initcall_blacklist=sysfb_init"))

    yield from each(found, map(judge, found))


def _link_state(link: PciLink | None) -> str:
    if link is None:
        return "unknown"
    return (
        f"{link.speed_gtps:g} GT/s x{link.width_lanes}"
        if link.speed_gtps is not None and link.width_lanes is not None
        else "unknown"
    )


@check(
    "link-width",
    "device",
    "Accelerators use all lanes of their link",
    why="Half the lanes are half the speed of loading a model. A card that is not seated well, a riser or a "
    "shared slot do this silently.",
    reference="PCI Express Base Specification, 7.5.3, Link Status; Linux: ABI sysfs-bus-pci, current_link_width",
)
def link_width(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN when the link is narrower than the card can, saying whether the slot is the limit."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        link = device.link
        if device.vfio_driver.startswith(_COHERENT):
            return Outcome(INFO, "reaches the processor by NVLink-C2C; its PCIe link is for configuration only")
        if link is None or link.width_lanes is None or link.max_width_lanes is None:
            return unknown("the link's width")
        if not link.width_lanes:
            return Outcome(
                WARN,
                "the link is down or the device is asleep",
                "echo on > /sys/bus/pci/devices/{subjects}/power/control, then check again",
            )
        if link.width_lanes >= link.max_width_lanes:
            return Outcome(PASS, f"x{link.width_lanes} of x{link.max_width_lanes}")
        port = host.pci.devices.get(device.upstream[-1]) if device.upstream else None
        limit = port.link.max_width_lanes if port and port.link else None
        if limit is not None and limit <= link.width_lanes:
            return Outcome(
                WARN,
                f"x{link.width_lanes} of x{link.max_width_lanes}: the slot has no more",
                "move the card to a wider slot, or change the slot's bifurcation in the firmware setup",
            )
        return Outcome(
            WARN,
            f"x{link.width_lanes} of x{link.max_width_lanes}, although the slot has x{limit or '?'}",
            "reseat the card and its riser, clean the contacts, then check again",
        )

    yield from each(found, map(judge, found))


@check(
    "link-speed",
    "device",
    "Accelerators' links run at their highest speed",
    why="A link trained down to an older generation halves the throughput, and is often the first sign of a bad "
    "riser or slot.",
    reference="PCI Express Base Specification, 7.5.3, Link Status; Linux: ABI sysfs-bus-pci, current_link_speed",
)
def link_speed(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN below what card and slot both can; INFO for the lowest speed, which idle GPUs choose by themselves."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        link = device.link
        if device.vfio_driver.startswith(_COHERENT):
            return Outcome(INFO, "reaches the processor by NVLink-C2C; its PCIe link is for configuration only")
        if link is None or link.speed_gtps is None or link.max_speed_gtps is None:
            return unknown("the link's speed")
        port = host.pci.devices.get(device.upstream[-1]) if device.upstream else None
        limit = port.link.max_speed_gtps if port and port.link and port.link.max_speed_gtps else link.max_speed_gtps
        reachable = min(limit, link.max_speed_gtps)
        evidence = f"{_link_state(link)}, the card can {link.max_speed_gtps:g} GT/s, the slot {limit:g} GT/s"
        if link.speed_gtps >= link.max_speed_gtps:
            return Outcome(PASS, evidence)
        if link.speed_gtps >= reachable:
            return Outcome(
                WARN,
                f"{evidence}: the slot is the limit",
                "move the card to a faster slot, or raise the slot's speed in the firmware setup",
            )
        if link.speed_gtps <= 2.5:
            return Outcome(INFO, f"{evidence}; idle GPUs slow their link, look again under load")
        return Outcome(
            WARN,
            evidence,
            "reseat the card and its riser, set the slot's speed to Auto in the firmware setup, then check again",
        )

    yield from each(found, map(judge, found))


@check(
    "power-state",
    "device",
    "Accelerators are awake",
    why="A device in D3cold has no configuration space: it reads as ones, and some GPUs never come back.",
    reference="Linux: Documentation/power/pci.rst; ABI sysfs-bus-pci, d3cold_allowed",
)
def power_state(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN for D3cold now, INFO where it is allowed."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        if device.power_state == "D3cold":
            return Outcome(
                WARN,
                "in D3cold",
                "for d in {subjects}; do echo on > /sys/bus/pci/devices/$d/power/control; echo 0 > "
                "/sys/bus/pci/devices/$d/d3cold_allowed; done",
            )
        if device.power_state is None and device.d3cold_allowed is None:
            return unknown("the power state")
        return Outcome(
            PASS,
            f"power state {device.power_state or 'unknown'}, D3cold "
            f"{'allowed' if device.d3cold_allowed else 'not allowed'}",
        )

    yield from each(found, map(judge, found))


@check(
    "supplier-links",
    "device",
    "No other device depends on an accelerator",
    why="The kernel stops consumers before their supplier: binding the accelerator would stop a device outside "
    "its group.",
    reference="Linux: Documentation/driver-api/device_link.rst",
)
def supplier_links(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN for consumers outside the accelerator's own group and card."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        own = {item.bdf for item in group_endpoints(host, device)}
        others = [name for name in device.consumers if name not in own and not name.startswith(device.slot_address)]
        if not others:
            return Outcome(PASS, "no consumer outside its group")
        return Outcome(
            WARN, f"{join(others)} depends on it", "unbind the consumer first, or keep the card in accelerator_except"
        )

    yield from each(found, map(judge, found))
