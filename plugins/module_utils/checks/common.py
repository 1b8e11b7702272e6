# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What several checks need: which devices are accelerators, what shares a group with them, how remedies are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from shlex import quote

from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    SKIP,
    WARN,
    Outcome,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice

GIB = 1024**3
MIB = 1024**2
NVIDIA = "10de"
AMD = "1002"
_NVSWITCH_CLASS = 0x068000  # "other bridge", but an endpoint: no PCI header of a bridge
_VFIO_DRIVERS = ("vfio-pci",)


def has_class(device: PciDevice, *prefixes: str) -> bool:
    """Return whether the device's class code begins with one of the hexadecimal ``prefixes``."""
    return device.class_code is not None and f"{device.class_code:06x}".startswith(prefixes)


def is_accelerator(device: PciDevice, policy: Policy) -> bool:
    """Return whether the policy counts this function as an accelerator to hand to virtual machines."""
    if device.bdf in policy.accelerator_except or device.is_bridge:
        return False
    if device.id in policy.accelerator_ids:
        return True
    return device.vendor_id in policy.accelerator_vendors and has_class(device, *policy.accelerator_classes)


def accelerators(host: Host, policy: Policy) -> list[PciDevice]:
    """Return the accelerators in the order of their addresses."""
    return [device for bdf, device in sorted(host.pci.devices.items()) if is_accelerator(device, policy)]


def is_nvswitch(device: PciDevice) -> bool:
    """Return whether this is NVIDIA's NVLink switch."""
    return device.vendor_id == NVIDIA and device.class_code == _NVSWITCH_CLASS and not device.is_bridge


def on_vfio(device: PciDevice) -> bool:
    """Return whether the device is on vfio-pci or on the variant driver that is meant for it."""
    return device.driver is not None and device.driver.replace("_", "-") in {
        *_VFIO_DRIVERS,
        device.vfio_driver.replace("_", "-"),
    }


def group_endpoints(host: Host, device: PciDevice) -> list[PciDevice]:
    """Return the other functions of the device's IOMMU group that are no bridges."""
    group = host.iommu.groups.get(-1 if device.iommu_group is None else device.iommu_group)
    members = [] if group is None else [host.pci.devices.get(bdf) for bdf in group.devices]
    return [member for member in members if member and not member.is_bridge and member.bdf != device.bdf]


def wants_passthrough(host: Host, policy: Policy) -> bool:
    """Return whether devices are to be handed to virtual machines on this host."""
    if policy.passthrough == "auto":
        return policy.accelerator_count > 0 or bool(accelerators(host, policy))
    return policy.passthrough == "required"


def for_passthrough(host: Host, policy: Policy, outcome: Outcome) -> Outcome:
    """Return the outcome as it is where devices are passed through, and as INFO where none are."""
    if outcome.status in (FAIL, RISK, WARN) and not wants_passthrough(host, policy):
        return Outcome(INFO, f"{outcome.evidence}; nothing is passed through here", outcome.remedy, outcome.subject)
    return outcome


def each(devices: Iterable[PciDevice], outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes, each with its device as the subject; without devices one SKIP."""
    found = False
    for device, outcome in zip(devices, outcomes, strict=True):
        found = True
        yield replace(outcome, subject=device.bdf)
    if not found:
        yield Outcome(SKIP, "no device here matches the policy's accelerator_* keys")


def gib(value_bytes: int) -> str:
    """Return a size for a person: 16 KiB, 512 MiB, 1.5 GiB, 64 GiB."""
    if 0 < value_bytes < MIB:
        return f"{value_bytes / 1024:.4g} KiB"
    if value_bytes < GIB:
        return f"{value_bytes / MIB:.4g} MiB"
    return f"{value_bytes / GIB:.4g} GiB"


def join(words: Iterable[object], limit: int = 8) -> str:
    """Return the words separated by commas, those beyond ``limit`` counted."""
    listed = [str(word) for word in words]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def ranges(numbers: Iterable[int]) -> str:
    """Return CPU numbers as the kernel writes them: 0-3,8."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def debian_architecture(host: Host) -> str:
    """Return Debian's name of the host's architecture, which package names end in."""
    return "arm64" if host.system.architecture == "aarch64" else "amd64"


_INSTALL_KERNEL = 'kernel-install add "$(uname -r)" "/boot/vmlinuz-$(uname -r)"'


def set_parameter(host: Host, parameter: str) -> str:
    """Return the commands that add a kernel parameter with this host's boot loader; it takes effect after a reboot."""
    if host.boot.loader == "grub":
        line = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {parameter}"'
        return f"echo '{line}' >> /etc/default/grub.d/90-vllmd.cfg && update-grub && systemctl reboot"
    if host.boot.loader == "systemd-boot":
        return f"sed -i '1s|$| {parameter}|' /etc/kernel/cmdline && {_INSTALL_KERNEL} && systemctl reboot"
    return f"add {parameter} to the kernel command line where this host's boot loader keeps it, then reboot"


def drop_parameter(host: Host, parameter: str) -> str:
    """Return the commands that find and remove a kernel parameter, such as ``iommu=``, with this host's boot loader."""
    pattern = parameter.replace(".", "[.]")
    if host.boot.loader == "grub":
        paths = {item.path for item in host.boot.loader_settings if parameter in item.value} or {"/etc/default/grub"}
        files = " ".join(map(quote, sorted(paths)))
        # A word boundary, because iommu= is the end of intel_iommu=, too.
        return f"sed -i 's/ *\\b{pattern}[^ \"]*//g' {files} && update-grub && systemctl reboot"
    if host.boot.loader == "systemd-boot":
        return f"sed -i 's/ *\\b{pattern}[^ ]*//g' /etc/kernel/cmdline && {_INSTALL_KERNEL} && systemctl reboot"
    return f"remove {parameter} from the kernel command line where this host's boot loader keeps it, then reboot"


def sysctl(setting: str) -> str:
    """Return the commands that set a sysctl now and at each boot; ``setting`` is NAME=VALUE."""
    return (
        f"echo '{setting}' > "
        f"/etc/sysctl.d/90-vllmd-{setting.split('=', maxsplit=1)[0].replace('.', '-')}.conf && sysctl "
        "--system"
    )


def at_least(found: int | None, wanted: int, evidence: str, remedy: str, below: str = FAIL) -> Outcome:
    """Return PASS when ``found`` reaches ``wanted``, ``below`` when it does not, SKIP when it is unknown."""
    if found is None:
        return Outcome(SKIP, f"{evidence} could not be read")
    if found >= wanted:
        return Outcome(PASS, f"{evidence}: {found}, wanted at least {wanted}")
    return Outcome(below, f"{evidence}: {found}, wanted at least {wanted}", remedy)
