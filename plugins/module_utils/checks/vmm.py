# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is a virtual machine monitor installed, and one new enough?"""

from __future__ import annotations

import re

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import join
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, Program

_OLDEST = {"qemu": (7, 2), "cloud-hypervisor": (40, 0)}
_PREFIXES = {"qemu": ("qemu-system-",), "cloud-hypervisor": ("cloud-hypervisor",)}
_INSTALL = {
    "qemu": "apt-get install qemu-system-x86, or run playbooks/configure.yml",
    "cloud-hypervisor": "set hypervisor_cloud_hypervisor_file and _sha256, then run playbooks/configure.yml",
}


def _installed(host: Host, vmm: str) -> list[Program]:
    prefixes = _PREFIXES.get(vmm, (vmm,))
    return [program for name, program in sorted(host.vmm.programs.items()) if name.startswith(prefixes)]


@check(
    "vmm-installed",
    "vmm",
    "A virtual machine monitor is installed",
    why="The launcher replaces itself by the monitor; without one no runtime starts. Role hypervisor installs "
    "QEMU by itself.",
    reference="docs/hypervisor.md",
)
def vmm_installed(host: Host, policy: Policy) -> Outcome:
    """WARN when none of the policy's monitors is there: the role installs it."""
    found = [program for vmm in policy.vmms for program in _installed(host, vmm)]
    if found:
        return Outcome(
            PASS, join(f"{program.path}{f' {program.version}' if program.version else ''}" for program in found)
        )
    if not host.vmm.programs and host.packages.manager is None:
        return unknown("which programs are installed")
    remedy = (
        _INSTALL.get(policy.vmms[0], f"install {policy.vmms[0]}") if policy.vmms else "name one in the policy key vmms"
    )
    return Outcome(WARN, f"none of {join(policy.vmms)}", remedy)


@check(
    "vmm-version",
    "vmm",
    "The virtual machine monitor is recent enough",
    why="Memory by descriptor, readiness and the options that the launcher uses are tested from these versions on.",
    reference="docs/hypervisor.md",
)
def vmm_version(host: Host, policy: Policy) -> Outcome:
    """WARN below QEMU 7.2 or Cloud Hypervisor 40."""
    told: list[str] = []
    for vmm in policy.vmms:
        for program in _installed(host, vmm):
            match = re.match(r"(?:\d+:)?v?(\d+)(?:\.(\d+))?", program.version or "")
            if not match:
                continue
            told.append(f"{program.name} {program.version}")
            oldest = _OLDEST.get(vmm, (0, 0))
            if (int(match[1]), int(match[2] or 0)) < oldest:
                wanted = ".".join(map(str, oldest))
                return Outcome(
                    WARN,
                    f"{program.name} {program.version}, wanted at least {wanted}",
                    _INSTALL.get(vmm, f"upgrade {vmm}"),
                )
    return Outcome(PASS, join(told)) if told else Outcome(SKIP, "no installed monitor tells its version")


@check(
    "guest-firmware",
    "vmm",
    "UEFI firmware for guests is at hand",
    why="Direct boot needs none. A guest with Secure Boot, or one started from a stock cloud image, does.",
    reference="docs/hypervisor.md",
)
def guest_firmware(host: Host, _policy: Policy) -> Outcome:
    """INFO without OVMF or the like."""
    if host.vmm.firmware_files:
        return Outcome(PASS, join(host.vmm.firmware_files, 3))
    if host.packages.manager is None:
        return unknown("which packages are installed")
    return Outcome(INFO, "none; only direct boot works", "apt-get install ovmf")
