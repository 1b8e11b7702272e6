# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is this hardware, and its operating system, one that the platform can use at all?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    at_least,
    join,
    wants_passthrough,
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
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_ARCHITECTURES = ("x86_64", "aarch64")
_DEBIAN = ("12", "13")


@check(
    "architecture",
    "platform",
    "The processor architecture is supported",
    why="Guest images and virtual machine monitors exist for x86_64 and aarch64 only.",
    reference="roles/runtime_assembler/README.md",
)
def architecture(host: Host, _policy: Policy) -> Outcome:
    """PASS for x86_64 and aarch64."""
    found = host.system.architecture
    if found is None:
        return unknown("the architecture")
    if found in _ARCHITECTURES:
        return Outcome(PASS, found)
    return Outcome(FAIL, f"{found}; supported: {join(_ARCHITECTURES)}", "use a host with one of these architectures")


@check(
    "operating-system",
    "platform",
    "The operating system is one that the roles are tested on",
    why="Package names, boot loader and initramfs tools are those of Debian 12 and 13.",
    reference="roles/hypervisor/meta/main.yml",
)
def operating_system(host: Host, _policy: Policy) -> Outcome:
    """PASS for Debian 12 and 13, WARN for any other."""
    system = host.system
    if system.os_id is None:
        return unknown("/etc/os-release")
    found = system.os_name or f"{system.os_id} {system.os_version or ''}".strip()
    if system.os_id == "debian" and (system.os_version or "").split(".")[0] in _DEBIAN:
        return Outcome(PASS, found)
    return Outcome(WARN, f"{found}; tested are Debian {join(_DEBIAN)}", "install Debian 13, or test your release first")


@check(
    "bare-metal",
    "platform",
    "The host is a real machine",
    why="A virtual machine sees an IOMMU and GPUs only as far as the hypervisor below it passes them on, and "
    "every nested "
    "level costs time.",
    reference="Linux: Documentation/virt/kvm/x86/running-nested-guests.rst",
)
def bare_metal(host: Host, policy: Policy) -> Outcome:
    """WARN in a virtual machine or container, for passthrough as for emulation."""
    found = host.system.virtualization
    if found is None:
        return unknown("whether this is a virtual machine")
    if not found:
        return Outcome(PASS, "no hypervisor or container below this host")
    status = WARN if wants_passthrough(host, policy) or policy.kvm == "required" else INFO
    return Outcome(
        status,
        f"this host itself runs in {found}",
        "use the machine below it, or enable nesting and a virtual IOMMU there",
    )


@check(
    "uefi",
    "platform",
    "The host boots by UEFI",
    why="Large BARs above 4 GiB, Secure Boot and confidential computing need UEFI; a legacy BIOS places GPUs "
    "below 4 GiB.",
    reference="UEFI specification, PCI I/O; NVIDIA vGPU documentation: SBIOS requirements",
)
def uefi(host: Host, policy: Policy) -> Outcome:
    """WARN for a legacy BIOS on a host with accelerators, INFO elsewhere."""
    if host.boot.firmware is None:
        return unknown("the firmware's kind")
    if host.boot.firmware == "uefi":
        return Outcome(PASS, "booted by UEFI")
    status = WARN if wants_passthrough(host, policy) else INFO
    return Outcome(
        status,
        "booted by a legacy BIOS",
        "set the boot mode to UEFI in the firmware setup and reinstall the boot loader",
    )


@check(
    "accelerator-count",
    "platform",
    "There are as many accelerators as the policy asks for",
    why="A runtime that asks for more accelerators than the host has is never placed; a card that fell off the "
    "bus shows here.",
    reference="policy key accelerator_count",
)
def accelerator_count(host: Host, policy: Policy) -> Outcome:
    """Compare the accelerators found with accelerator_count."""
    if not host.pci.devices:
        return unknown("the list of PCI devices")
    found = accelerators(host, policy)
    if not found and not policy.accelerator_count:
        return Outcome(INFO, "none found, and none asked for")
    what = f"accelerators ({join(sorted({device.id for device in found}))})" if found else "accelerators"
    remedy = (
        "lspci -nn | grep -i -e 3d -e vga; reseat a missing card, enable its slot in the firmware, or fix "
        "accelerator_* in the policy"
    )
    return at_least(len(found), policy.accelerator_count, what, remedy)


@check(
    "accelerator-kinds",
    "platform",
    "All accelerators are of one kind",
    why="Placement treats the accelerators of a host as equal; a runtime on a smaller one runs out of memory.",
    reference="docs/precheck.md",
)
def accelerator_kinds(host: Host, policy: Policy) -> Outcome:
    """WARN when accelerators differ in vendor:device."""
    kinds: dict[str, int] = {}
    for device in accelerators(host, policy):
        kinds[device.id] = kinds.get(device.id, 0) + 1
    if not kinds:
        return Outcome(SKIP, "no device here matches the policy's accelerator_* keys")
    found = join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
    if len(kinds) == 1:
        return Outcome(PASS, found)
    return Outcome(
        WARN,
        found,
        "name the kind to be used in accelerator_ids or accelerator_vendors, or keep others in accelerator_except",
    )


@check(
    "facts-complete",
    "platform",
    "Every file that facts come from was readable",
    why="What could not be read could not be checked; the checks that needed it say SKIP.",
    reference="docs/precheck.md",
)
def facts_complete(host: Host, _policy: Policy) -> Outcome:
    """FAIL when not even processor and memory are known, INFO that lists other unreadable files."""
    if host.cpu.vendor is None or host.memory.total_bytes is None or host.system.architecture is None:
        lost = "the processor, its architecture or the memory is not known: /proc or /sys could not be read"
        return Outcome(FAIL, lost, "run the precheck on the host itself, with /proc and /sys mounted")
    if not host.troubles:
        return Outcome(PASS, "no file was unreadable")
    found = join((f"{trouble.path} ({trouble.reason})" for trouble in host.troubles), 4)
    return Outcome(INFO, found, "run the precheck as root (become: true)")
