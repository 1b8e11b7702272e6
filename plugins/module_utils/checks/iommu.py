# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does an IOMMU stand between devices and memory, and do their interrupts go through it?"""

from __future__ import annotations

from shlex import quote

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    drop_parameter,
    for_passthrough,
    join,
    set_parameter,
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
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, ModprobeLine

_DEFAULT_ENTRIES = 65535  # vfio_iommu_type1's own default
_FIRMWARE = "enable VT-d (Intel), IOMMU (AMD) or SMMU (Arm) in the firmware setup, then power the host off and on"
_TRUE = ("1", "y", "Y")


def _switch_on(host: Host) -> str:
    """Return how the IOMMU is switched on; only Intel's waits for a kernel parameter."""
    if host.cpu.vendor == "intel" and "DMAR" in host.iommu.acpi_tables:
        return set_parameter(host, "intel_iommu=on")
    return f"{_FIRMWARE}; see check iommu-parameters for what switches it off"


def _configured(host: Host, module: str, option: str) -> list[ModprobeLine]:
    """Return the modprobe.d lines that switch ``option`` of ``module`` on."""
    return [
        line
        for line in host.modules.modprobe
        if line.verb == "options"
        and line.module.replace("-", "_") == module
        and any(
            word.partition("=")[0] == option and (word.partition("=")[2] or "1") in _TRUE for word in line.rest.split()
        )
    ]


def _units(host: Host, kind: str) -> list[int]:
    return [unit.capability for unit in host.iommu.units if unit.kind == kind and unit.capability is not None]


@check(
    "iommu-firmware",
    "iommu",
    "The firmware offers an IOMMU",
    why="The kernel finds the IOMMU by an ACPI table (DMAR, IVRS, IORT or VIOT). Without it no kernel parameter helps.",
    reference="Intel VT-d specification, 8; AMD I/O Virtualization specification, 5; Arm IORT",
)
def iommu_firmware(host: Host, policy: Policy) -> Outcome:
    """FAIL without a table, as long as no IOMMU is at work (device trees have no ACPI)."""
    if host.iommu.acpi_tables:
        return Outcome(PASS, f"ACPI table {join(host.iommu.acpi_tables)}")
    if host.iommu.is_on or host.iommu.units:
        return Outcome(PASS, "an IOMMU is at work, announced without ACPI")
    if host.cpu.vendor is None:
        return unknown("/sys/firmware/acpi/tables")
    return for_passthrough(host, policy, Outcome(FAIL, "none of the ACPI tables DMAR, IVRS, IORT, VIOT", _FIRMWARE))


@check(
    "iommu-enabled",
    "iommu",
    "The kernel drives the IOMMU",
    why="Without it VFIO has no groups: a passed-through device could read and write all memory of the host.",
    reference="Linux: Documentation/driver-api/vfio.rst; kernel-parameters.txt, intel_iommu, amd_iommu",
)
def iommu_enabled(host: Host, policy: Policy) -> Outcome:
    """FAIL without IOMMU groups."""
    if host.iommu.is_on:
        return Outcome(PASS, f"{len(host.iommu.groups)} IOMMU groups")
    if not host.pci.devices and host.boot.cmdline is None:
        return unknown("/sys/kernel/iommu_groups")
    return for_passthrough(
        host,
        policy,
        Outcome(FAIL, "no IOMMU groups in /sys/kernel/iommu_groups", _switch_on(host)),
    )


@check(
    "iommu-parameters",
    "iommu",
    "No kernel parameter switches the IOMMU off",
    why="intel_iommu=off and the like win over the firmware, and are often left over from a driver's trouble "
    "years ago.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, iommu, intel_iommu, amd_iommu",
)
def iommu_parameters(host: Host, policy: Policy) -> Outcome:
    """FAIL when iommu=off, intel_iommu=off or amd_iommu=off stands on the command line."""
    if host.boot.cmdline is None:
        return unknown("/proc/cmdline")
    off = [
        name for name in ("iommu", "intel_iommu", "amd_iommu") if "off" in (host.boot.parameter(name) or "").split(",")
    ]
    if off:
        found = join(f"{name}={host.boot.parameter(name)}" for name in off)
        return for_passthrough(host, policy, Outcome(FAIL, found, drop_parameter(host, f"{off[0]}=")))
    return Outcome(PASS, "none of iommu=off, intel_iommu=off, amd_iommu=off")


@check(
    "iommu-translation",
    "iommu",
    "Accelerators are translated while the host itself holds them",
    why="In an identity domain (iommu=pt) a device that comes back from a guest, firmware changed perhaps, may "
    "write all memory "
    "of the host until it is bound to VFIO again.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, iommu.passthrough; ABI "
    "sysfs-kernel-iommu_groups, type",
)
def iommu_translation(host: Host, policy: Policy) -> Outcome:
    """RISK when an accelerator's group has an identity domain; INFO when only other devices have."""
    if not host.iommu.is_on:
        return Outcome(SKIP, "no IOMMU groups")
    if host.iommu.default_domain is None:
        return unknown("the type of the IOMMU groups")
    groups = {device.iommu_group for device in accelerators(host, policy)} - {None}
    identity = sorted(
        number for number in groups if number in host.iommu.groups and host.iommu.groups[number].type == "identity"
    )
    if identity:
        parameter = "iommu" if host.boot.parameter("iommu") is not None else "iommu.passthrough"
        remedy = (
            drop_parameter(host, f"{parameter}=")
            if host.boot.parameter(parameter) is not None
            else set_parameter(host, "iommu.passthrough=0")
        )
        return Outcome(RISK, f"groups of accelerators with an identity domain: {join(identity)}", remedy)
    if host.iommu.default_domain == "translated":
        return Outcome(PASS, "every group is translated")
    return Outcome(INFO, f"default domains: {host.iommu.default_domain}; no accelerator is concerned")


@check(
    "interrupt-remapping",
    "iommu",
    "Interrupts are remapped by the IOMMU",
    why="Without it a guest can write to its device's registers such that the host receives an interrupt of the "
    "guest's choice. "
    "VFIO therefore refuses the device.",
    reference="Linux: drivers/vfio/vfio_iommu_type1.c, allow_unsafe_interrupts; Intel VT-d specification, 5",
)
def interrupt_remapping(host: Host, policy: Policy) -> Outcome:
    """FAIL without interrupt remapping; never recommends unsafe interrupts."""
    iommu = host.iommu
    if iommu.interrupt_remapping is None:
        return unknown("whether interrupts are remapped")
    if iommu.interrupt_remapping:
        return Outcome(PASS, f"interrupt chip {iommu.interrupt_chip}" if iommu.interrupt_chip else "in use")
    if host.boot.parameter("nox2apic") is not None or "off" in (host.boot.parameter("intremap") or ""):
        name = "intremap=" if host.boot.parameter("intremap") else "nox2apic"
        remedy = drop_parameter(host, name)
    elif iommu.interrupt_remapping_supported:
        remedy = set_parameter(host, "intremap=on")
    else:
        remedy = (
            "enable x2APIC and VT-d interrupt remapping (Intel) or IOMMU (AMD) in the firmware setup, update the "
            "firmware"
        )
    supported = {True: ", although the hardware has it", False: ", and the hardware says it has none", None: ""}
    evidence = f"not in use{supported[iommu.interrupt_remapping_supported]}"
    return for_passthrough(host, policy, Outcome(FAIL, evidence, remedy))


@check(
    "unsafe-interrupts",
    "iommu",
    "VFIO's allow_unsafe_interrupts is off",
    why="It waives interrupt remapping, and with it the boundary between guest and host. Guides recommend it to "
    "get a start to succeed.",
    reference="Linux: drivers/vfio/vfio_iommu_type1.c, module parameter allow_unsafe_interrupts",
)
def unsafe_interrupts(host: Host, _policy: Policy) -> Outcome:
    """FAIL where it opens a hole now, RISK where it would after the next boot or without remapping."""
    lines = _configured(host, "vfio_iommu_type1", "allow_unsafe_interrupts")
    on_cmdline = (host.boot.parameter("vfio_iommu_type1.allow_unsafe_interrupts") or "") in _TRUE
    if lines:
        remedy = (
            f"sed -i '{lines[0].line}s/allow_unsafe_interrupts=[^ ]*//' {quote(lines[0].path)} && update-initramfs -u"
        )
    elif on_cmdline:
        remedy = drop_parameter(host, "vfio_iommu_type1.allow_unsafe_interrupts=")
    else:
        remedy = "echo N > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    where = join([f"{line.path}:{line.line}" for line in lines] + ["kernel command line"] * on_cmdline)
    if host.iommu.unsafe_interrupts:
        status = RISK if host.iommu.interrupt_remapping else FAIL
        return Outcome(status, f"on{f' ({where})' if where else ''}", remedy)
    if lines or on_cmdline:
        return Outcome(RISK, f"off now, on once the module is loaded again ({where})", remedy)
    if host.iommu.unsafe_interrupts is None and not host.modules.states:
        return unknown("the parameter of vfio_iommu_type1")
    return Outcome(
        PASS, "off" if host.iommu.unsafe_interrupts is False else "not set, and vfio_iommu_type1 is not loaded"
    )


@check(
    "no-iommu-mode",
    "iommu",
    "VFIO's mode without an IOMMU is off",
    why="enable_unsafe_noiommu_mode hands devices out with no protection of memory at all, and taints the kernel.",
    reference="Linux: drivers/vfio/Kconfig, VFIO_NOIOMMU",
)
def no_iommu_mode(host: Host, _policy: Policy) -> Outcome:
    """FAIL when it is on; RISK when it is configured for the next load."""
    lines = _configured(host, "vfio", "enable_unsafe_noiommu_mode")
    if host.iommu.no_iommu:
        return Outcome(FAIL, "on", "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    if lines:
        path, option = quote(lines[0].path), "enable_unsafe_noiommu_mode"
        remedy = f"sed -i '{lines[0].line}s/{option}=[^ ]*//' {path} && update-initramfs -u"
        return Outcome(RISK, f"off now, on once the module is loaded again ({lines[0].path}:{lines[0].line})", remedy)
    if host.iommu.no_iommu is None and not host.modules.states:
        return unknown("the parameter of vfio")
    return Outcome(PASS, "off" if host.iommu.no_iommu is False else "not set, and vfio is not loaded")


@check(
    "posted-interrupts",
    "iommu",
    "Device interrupts can be posted to a running guest",
    why="With it a GPU's interrupt reaches the guest's CPU without stopping it.",
    reference="Intel VT-d specification, 5.2; AMD I/O Virtualization specification, guest virtual APIC",
)
def posted_interrupts(host: Host, _policy: Policy) -> Outcome:
    """INFO when the IOMMU cannot: it only costs time."""
    found = host.iommu.posted_interrupts_supported
    if found is None:
        return unknown("the IOMMU's capability registers")
    return Outcome(PASS, "supported") if found else Outcome(INFO, "the IOMMU does not support it")


@check(
    "dma-entry-limit",
    "iommu",
    "VFIO may make as many mappings as it does by default",
    why="A guest with many memory slots and BARs needs one mapping each; a lowered limit makes the start fail "
    "with ENOSPC.",
    reference="Linux: drivers/vfio/vfio_iommu_type1.c, module parameter dma_entry_limit",
)
def dma_entry_limit(host: Host, _policy: Policy) -> Outcome:
    """WARN below the kernel's default."""
    found = host.iommu.dma_entry_limit
    if found is None:
        return Outcome(SKIP, "vfio_iommu_type1 is not loaded")
    if found >= _DEFAULT_ENTRIES:
        return Outcome(PASS, f"{found} mappings")
    return Outcome(
        WARN,
        f"{found} mappings, the default is {_DEFAULT_ENTRIES}",
        f"echo {_DEFAULT_ENTRIES} > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
    )


@check(
    "iommu-address-width",
    "iommu",
    "The IOMMU reaches every guest address",
    why="An IOMMU of 39 bits ends at 512 GiB: memory and BARs of a guest with large GPUs lie above it, and the "
    "start fails.",
    reference="Intel VT-d specification, 11.4.2, MGAW",
)
def iommu_address_width(host: Host, policy: Policy) -> Outcome:
    """WARN when an Intel unit has fewer than 46 bits and accelerators are there."""
    widths = [(capability >> 16 & 0x3F) + 1 for capability in _units(host, "intel")]
    if not widths:
        return Outcome(SKIP, "only Intel's IOMMUs tell their width, and none did")
    narrowest = min(widths)
    if narrowest >= 46:
        return Outcome(PASS, f"{narrowest} bits")
    return for_passthrough(
        host,
        policy,
        Outcome(
            WARN,
            f"{narrowest} bits address {2**narrowest >> 30} GiB",
            "keep guest memory plus BARs below that, or use newer hardware",
        ),
    )


@check(
    "iommu-large-pages",
    "iommu",
    "The IOMMU maps large pages",
    why="With 4 KiB pages alone, mapping a guest of 1 TiB takes minutes at each start, hugepages or not.",
    reference="Intel VT-d specification, 11.4.2, SLLPS",
)
def iommu_large_pages(host: Host, policy: Policy) -> Outcome:
    """WARN without 2 MiB pages in any Intel unit; 1 GiB is worth saying."""
    masks = [capability >> 34 & 0xF for capability in _units(host, "intel")]
    if not masks:
        return Outcome(SKIP, "only Intel's IOMMUs tell their page sizes, and none did")
    common = masks[0]
    for mask in masks[1:]:
        common &= mask
    if common & 1:
        return Outcome(PASS, "2 MiB and 1 GiB" if common & 2 else "2 MiB")
    return for_passthrough(
        host, policy, Outcome(WARN, "4 KiB only", "plan for slow starts of large guests, or use newer hardware")
    )
