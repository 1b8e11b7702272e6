# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is the kernel one that can do this, and will it come up the same after the next boot?"""

from __future__ import annotations

import re

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    debian_architecture,
    for_passthrough,
    join,
    set_parameter,
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

_OLDEST, _TESTED = (5, 10), (6, 1)
_OPTIONS = ("VFIO", "VFIO_PCI", "VFIO_IOMMU_TYPE1", "IOMMU_SUPPORT")
# What passthrough depends on and a boot must not lose.
_PARAMETERS = (
    "iommu",
    "intel_iommu",
    "amd_iommu",
    "iommu.passthrough",
    "vfio-pci.ids",
    "hugepages",
    "hugepagesz",
    "default_hugepagesz",
)
# Bits of /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst).
_BROKEN = {4: "machine check", 5: "bad page", 7: "oops", 9: "warning", 14: "lockup"}
_FOREIGN = {0: "proprietary module", 1: "forced load", 12: "out-of-tree module", 13: "unsigned module"}


@check(
    "kernel-version",
    "boot",
    "The kernel is recent enough",
    why="VFIO's reset methods, variant drivers and group types came between 5.10 and 6.1; Debian 12 has 6.1.",
    reference="https://www.kernel.org/category/releases.html",
)
def kernel_version(host: Host, _policy: Policy) -> Outcome:
    """FAIL before 5.10, WARN before 6.1."""
    match = re.match(r"(\d+)\.(\d+)", host.kernel.release or "")
    if not match:
        return unknown("the kernel's release")
    found = int(match[1]), int(match[2])
    if found >= _TESTED:
        return Outcome(PASS, str(host.kernel.release))
    status = FAIL if found < _OLDEST else WARN
    return Outcome(
        status,
        f"{host.kernel.release}; tested from {_TESTED[0]}.{_TESTED[1]}",
        f"apt-get install linux-image-{debian_architecture(host)} && systemctl reboot",
    )


@check(
    "kernel-options",
    "boot",
    "The kernel is built with VFIO and IOMMU support",
    why="An option that is off cannot be loaded later.",
    reference="Linux: drivers/vfio/Kconfig, drivers/iommu/Kconfig",
)
def kernel_options(host: Host, policy: Policy) -> Outcome:
    """FAIL for an option that is n."""
    options = {name: host.kernel.config[name] for name in _OPTIONS if name in host.kernel.config}
    if not options:
        return unknown("/boot/config of the running kernel")
    # A module that is there proves its option, whatever an incomplete config file says.
    there = {name for name, state in host.modules.states.items() if state != "missing"}
    off = [name for name, value in options.items() if value == "n" and name.lower() not in there]
    if not off:
        return Outcome(PASS, join(f"{name}={value}" for name, value in options.items()))
    remedy = f"apt-get install linux-image-{debian_architecture(host)} (not a cloud kernel) && systemctl reboot"
    return for_passthrough(host, policy, Outcome(FAIL, f"off: {join(off)}", remedy))


@check(
    "kernel-taint",
    "boot",
    "The kernel has not broken since it started",
    why="After a machine check, an oops or a bad page nothing that the host measures or isolates can be relied on.",
    reference="Linux: Documentation/admin-guide/tainted-kernels.rst",
)
def kernel_taint(host: Host, _policy: Policy) -> Outcome:
    """WARN for what broke, INFO for foreign modules."""
    taint = host.kernel.taint
    if taint is None:
        return unknown("/proc/sys/kernel/tainted")
    broken = [name for bit, name in _BROKEN.items() if taint >> bit & 1]
    if broken:
        return Outcome(
            WARN,
            f"{join(broken)} (mask {taint})",
            "journalctl -k -p err shows it; run rasdaemon or a memory test for machine checks, then reboot",
        )
    foreign = [name for bit, name in _FOREIGN.items() if taint >> bit & 1]
    return Outcome(INFO, f"{join(foreign)} (mask {taint})") if foreign else Outcome(PASS, f"mask {taint}")


@check(
    "boot-loader",
    "boot",
    "The boot loader is one whose kernel command line can be set",
    why="IOMMU and hugepages need kernel parameters; the role sets them for GRUB and systemd-boot and leaves any "
    "other to you.",
    reference="docs/precheck.md",
)
def boot_loader(host: Host, _policy: Policy) -> Outcome:
    """INFO for none (direct kernel boot) or an unknown loader."""
    if host.boot.loader is None:
        return unknown("the boot loader")
    evidence = f"{host.boot.loader}{f' ({host.boot.loader_evidence})' if host.boot.loader_evidence else ''}"
    if host.boot.loader in ("grub", "systemd-boot"):
        return Outcome(PASS, evidence)
    return Outcome(INFO, f"{evidence}: kernel parameters are set by whatever starts this host")


@check(
    "boot-parameters",
    "boot",
    "Kernel parameters that passthrough needs will be there after a reboot",
    why="A parameter typed in the boot menu, or lost by a new kernel's installation, is missing on the day of "
    "the next reboot.",
    reference="grub-mkconfig, /etc/default/grub; kernel-install(8), /etc/kernel/cmdline",
)
def boot_parameters(host: Host, _policy: Policy) -> Outcome:
    """WARN when a running parameter is not in the loader's own files."""
    if host.boot.cmdline is None:
        return unknown("/proc/cmdline")
    if host.boot.loader not in ("grub", "systemd-boot") or not host.boot.loader_settings:
        return Outcome(SKIP, "the boot loader's own settings were not found")
    configured = (
        " ".join(setting.value for setting in host.boot.loader_settings).replace('"', " ").replace("'", " ").split()
    )
    lost = [
        word for word in host.boot.cmdline.split() if word.partition("=")[0] in _PARAMETERS and word not in configured
    ]
    if not lost:
        return Outcome(PASS, "running and configured parameters agree")
    return Outcome(
        WARN,
        f"running, but not configured: {join(lost)}",
        set_parameter(host, " ".join(lost)).replace(" && systemctl reboot", ""),
    )


@check(
    "reboot-pending",
    "boot",
    "The host runs what is installed",
    why="A pending reboot means that the next one brings another kernel: modules and parameters that work now "
    "may not then.",
    reference="/run/reboot-required; kernel-install(8)",
)
def reboot_pending(host: Host, _policy: Policy) -> Outcome:
    """WARN for a reboot that is asked for."""
    if host.boot.is_reboot_required is None:
        return unknown("whether a reboot is pending")
    if host.boot.is_reboot_required:
        return Outcome(WARN, "/run/reboot-required is there", "systemctl reboot, in a maintenance window")
    return Outcome(PASS, "none pending")


@check(
    "kernel-installed",
    "boot",
    "The running kernel is still installed",
    why="Once its modules are gone from the disk, vfio-pci and tun can no longer be loaded.",
    reference="/lib/modules, /boot",
)
def kernel_installed(host: Host, _policy: Policy) -> Outcome:
    """WARN when /boot has kernels but not the running one."""
    if host.kernel.release is None or not host.boot.kernels:
        return unknown("the kernels below /boot")
    if host.kernel.release in host.boot.kernels:
        return Outcome(PASS, f"{host.kernel.release} of {len(host.boot.kernels)}")
    return Outcome(WARN, f"{host.kernel.release} runs, installed: {join(host.boot.kernels)}", "systemctl reboot")


@check(
    "initramfs",
    "boot",
    "The initramfs tool is one that the role can refresh",
    why="VFIO must take a GPU before its own driver does, which is decided inside the initramfs.",
    reference="initramfs-tools(7); dracut.conf(5)",
)
def initramfs(host: Host, policy: Policy) -> Outcome:
    """INFO for none or another tool."""
    found = host.boot.initramfs
    if found is None:
        if host.boot.cmdline is None:
            return unknown("the initramfs tool")
        return Outcome(INFO, "none found: drivers load from the root file system")
    if found in ("initramfs-tools", "dracut"):
        return Outcome(PASS, found)
    status = WARN if wants_passthrough(host, policy) else INFO
    return Outcome(
        status,
        f"{found}; known are initramfs-tools and dracut",
        "rebuild the initramfs by hand after role vfio has run",
    )
