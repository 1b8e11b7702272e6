# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Can each accelerator be handed over alone, and does the PCIe fabric keep it away from its neighbours?"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    drop_parameter,
    each,
    group_endpoints,
    is_nvswitch,
    join,
    on_vfio,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice

# Source validation, request and completion redirect, upstream forwarding: what the kernel asks of a bridge that
# isolates (drivers/iommu/iommu.c, REQ_ACS_FLAGS).
_ACS_NEEDED = 0b11101
_ACS_NAMES = {0: "SV", 2: "RR", 3: "CR", 4: "UF"}


def _describe(device: PciDevice) -> str:
    return f"{device.bdf} {device.id}{f' [{device.driver}]' if device.driver else ''}"


@check(
    "accelerator-group",
    "isolation",
    "Each accelerator is in an IOMMU group",
    why="VFIO hands out groups. A device without one, although the IOMMU is on, is left out by firmware tables "
    "or a quirk.",
    reference="Linux: Documentation/driver-api/vfio.rst, groups",
)
def accelerator_group(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL for an accelerator without a group while others have one."""
    if not host.iommu.is_on:
        yield Outcome(SKIP, "no IOMMU groups; see check iommu-enabled")
        return
    found = accelerators(host, policy)
    remedy = "journalctl -k | grep -i -e dmar -e ivrs -e iommu says why; update the firmware"
    yield from each(
        found,
        (
            Outcome(PASS, "has a group")
            if device.iommu_group is not None
            else Outcome(FAIL, "in no IOMMU group although the IOMMU is on", remedy)
            for device in found
        ),
    )


@check(
    "group-isolation",
    "isolation",
    "No accelerator shares its group with another device",
    why="A group is handed over as a whole: whoever gets the accelerator gets the neighbour, and the host loses it.",
    reference="Linux: Documentation/driver-api/vfio.rst, IOMMU groups; Documentation/PCI/acs",
)
def group_isolation(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL when the group holds an endpoint of another card; functions of the same card are expected."""
    if not host.iommu.is_on:
        yield Outcome(SKIP, "no IOMMU groups; see check iommu-enabled")
        return
    found = accelerators(host, policy)
    remedy = (
        "move the card to a slot below its own root port, or enable ACS in the firmware setup "
        "(lspci -t shows the tree); never pcie_acs_override"
    )

    def judge(device: PciDevice) -> Outcome:
        if device.iommu_group is None:
            return Outcome(SKIP, "in no IOMMU group; see check accelerator-group")
        others = [item for item in group_endpoints(host, device) if item.slot_address != device.slot_address]
        if not others:
            return Outcome(PASS, "its group holds only its own card")
        return Outcome(FAIL, f"group {device.iommu_group} also holds {join(map(_describe, others))}", remedy)

    yield from each(found, map(judge, found))


@check(
    "group-host-devices",
    "isolation",
    "No accelerator's group holds the host's own disk or network",
    why="Binding such a group takes the root disk or the way in away from the running host.",
    reference="docs/precheck.md",
)
def group_host_devices(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL when a mounted disk or the default route hangs off an endpoint of an accelerator's group."""
    if not host.iommu.is_on:
        yield Outcome(SKIP, "no IOMMU groups; see check iommu-enabled")
        return
    used: dict[str, str] = {}
    for use in host.storage.uses:
        used.update(dict.fromkeys(use.pci_devices, use.purpose))
    for name in (*host.network.default_route_interfaces, *host.network.ssh_interfaces):
        interface = host.network.interfaces.get(name)
        used.update(dict.fromkeys(interface.pci_devices if interface else (), f"network interface {name}"))
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        held = [
            f"{item.bdf} ({used[item.bdf]})" for item in (device, *group_endpoints(host, device)) if item.bdf in used
        ]
        if not held:
            return Outcome(PASS, "the host runs on nothing in its group")
        return Outcome(
            FAIL,
            f"the host runs on {join(held)}",
            "move the disk, the network card or the accelerator to another slot, or list it in accelerator_except",
        )

    yield from each(found, map(judge, found))


@check(
    "group-companions",
    "isolation",
    "All functions of an accelerator's group are on one side",
    why="VFIO opens a group only when every endpoint is on a VFIO driver or on none; a forgotten audio function "
    "shows as "
    "'group is not viable' when the virtual machine starts.",
    reference="Linux: drivers/vfio/group.c, VFIO_GROUP_FLAGS_VIABLE",
)
def group_companions(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL when the accelerator is on VFIO and a companion is on a host driver."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        others = group_endpoints(host, device)
        held = [item for item in others if item.driver and not on_vfio(item)]
        if on_vfio(device) and held:
            return Outcome(
                FAIL,
                f"on {device.driver}, but {join(map(_describe, held))} is not",
                "run playbooks/configure.yml with role vfio: it binds whole groups",
            )
        if others:
            return Outcome(INFO, f"goes together with {join(map(_describe, others))}")
        return Outcome(PASS, "alone in its group")

    yield from each(found, map(judge, found))


@check(
    "acs",
    "isolation",
    "Every bridge above an accelerator separates its devices (ACS)",
    why="Without Access Control Services two devices below one bridge can write to each other past the IOMMU.",
    reference="PCI Express Base Specification, 6.12; Linux: drivers/iommu/iommu.c, REQ_ACS_FLAGS",
)
def acs(host: Host, policy: Policy) -> Iterator[Outcome]:
    """RISK for a bridge that has ACS and does not use all of it; SKIP for one whose configuration was not readable."""
    if not host.iommu.is_on:
        yield Outcome(SKIP, "the kernel enables ACS together with the IOMMU; see check iommu-enabled")
        return
    bridges = sorted({bdf for device in accelerators(host, policy) for bdf in device.upstream})
    for bdf in bridges:
        bridge = host.pci.devices.get(bdf)
        if bridge is None or bridge.acs is None:
            yield Outcome(SKIP, "has no ACS capability, or it was not readable", subject=bdf)
            continue
        missing = bridge.acs.capability & _ACS_NEEDED & ~bridge.acs.control
        absent = _ACS_NEEDED & ~bridge.acs.capability
        names = join(name for bit, name in _ACS_NAMES.items() if (missing | absent) >> bit & 1)
        if missing:
            yield Outcome(
                RISK,
                f"ACS is not enabled for {names}",
                "enable ACS in the firmware setup and remove pci=noacs or disable_acs_redir= from the kernel "
                "command line; lspci -vvv -s {subjects} shows ACSCtl",
                bdf,
            )
        elif absent:
            yield Outcome(INFO, f"does not offer {names}; the kernel's groups allow for that", subject=bdf)
        else:
            yield Outcome(PASS, "source validation, request and completion redirect, upstream forwarding", subject=bdf)
    if not bridges:
        yield Outcome(SKIP, "no accelerator is below a bridge")


@check(
    "acs-override",
    "isolation",
    "The kernel is not told to believe in ACS that is not there",
    why="pcie_acs_override splits groups on paper only; the devices can still reach each other and each other's "
    "memory.",
    reference="docs/precheck.md; the parameter exists in patched kernels only",
)
def acs_override(host: Host, _policy: Policy) -> Outcome:
    """RISK when the parameter stands on the command line."""
    if host.boot.cmdline is None:
        return unknown("/proc/cmdline")
    found = host.boot.parameter("pcie_acs_override")
    if found is None:
        return Outcome(PASS, "pcie_acs_override is not set")
    return Outcome(RISK, f"pcie_acs_override={found}", drop_parameter(host, "pcie_acs_override="))


@check(
    "sriov-in-use",
    "isolation",
    "No accelerator that is to be handed over has virtual functions",
    why="Handing over the physical function takes it from everybody who uses one of its virtual functions.",
    reference="Linux: Documentation/PCI/pci-iov-howto.rst",
)
def sriov_in_use(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL when virtual functions exist."""
    found = [device for device in accelerators(host, policy) if device.physical_function is None]

    def judge(device: PciDevice) -> Outcome:
        count = device.sriov.num_vfs if device.sriov else 0
        if count is None:
            return unknown("sriov_numvfs")
        if not count:
            return Outcome(PASS, "no virtual functions")
        return Outcome(
            FAIL,
            f"{count} virtual functions exist",
            "for d in {subjects}; do echo 0 > /sys/bus/pci/devices/$d/sriov_numvfs; done, or hand out the "
            "virtual functions instead",
        )

    yield from each(found, map(judge, found))


@check(
    "nvswitch",
    "isolation",
    "NVSwitches and their GPUs stay together",
    why="GPUs behind NVSwitches reach each other by NVLink, past PCIe and IOMMU: only a fabric manager that "
    "holds the switches can part them.",
    reference="NVIDIA Fabric Manager user guide, virtualization models",
)
def nvswitch(host: Host, policy: Policy) -> Outcome:
    """INFO when there are switches; FAIL when switches and GPUs are on different sides."""
    switches = [device for device in host.pci.devices.values() if is_nvswitch(device)]
    if not host.pci.devices:
        return unknown("the list of PCI devices")
    if not switches:
        return Outcome(PASS, "no NVSwitch here")
    gpus = [device for device in accelerators(host, policy) if device.vendor_id == switches[0].vendor_id]
    bound = [device for device in (*gpus, *switches) if on_vfio(device)]
    evidence = f"{len(switches)} NVSwitches, {len(gpus)} GPUs"
    if bound and len(bound) < len(gpus) + len(switches) and any(on_vfio(device) for device in gpus):
        if not any(on_vfio(device) for device in switches):
            return Outcome(
                WARN,
                f"{evidence}; GPUs are on VFIO, the switches are not: NVLink works only with a fabric "
                "manager in the host or a service guest",
                "give all GPUs and all NVSwitches to one guest, or run nvidia-fabricmanager with FABRIC_MODE=1",
            )
        return Outcome(
            WARN,
            f"{evidence}; {len(bound)} of them on VFIO",
            "bind all of them or none of the switches: role vfio has an option for NVSwitches",
        )
    return Outcome(INFO, f"{evidence}; give all of them to one guest, or run a fabric manager")


@check(
    "shared-upstream",
    "isolation",
    "Accelerators do not share one slow way to the processor",
    why="Devices below one switch share its upstream link: with all of them loading a model, each gets a part.",
    reference="PCI Express Base Specification, 1.3",
)
def shared_upstream(host: Host, policy: Policy) -> Iterator[Outcome]:
    """INFO for each bridge near the root that several accelerators hang off."""
    shared: dict[str, list[str]] = {}
    found = accelerators(host, policy)
    for device in found:
        if device.upstream:
            shared.setdefault(device.upstream[0], []).append(device.bdf)
    for port, devices in sorted(shared.items()):
        if len(devices) > 1:
            yield Outcome(INFO, f"root port of {len(devices)} accelerators: {join(devices)}", subject=port)
    if found and all(len(devices) == 1 for devices in shared.values()):
        yield Outcome(PASS, "each accelerator has a root port of its own")
