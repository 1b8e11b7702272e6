# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Do the host's own boundaries hold: signed kernel and modules, side channels, what users may see?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    debian_architecture,
    drop_parameter,
    join,
    set_parameter,
    sysctl,
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
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_MANDATORY = ("apparmor", "selinux", "smack", "tomoyo")


@check(
    "secure-boot",
    "security",
    "Secure Boot is on",
    why="Without it whoever gets to the disk once replaces kernel and boot loader, and with them every boundary "
    "checked here.",
    reference="UEFI specification, 32; https://wiki.debian.org/SecureBoot",
)
def secure_boot(host: Host, policy: Policy) -> Outcome:
    """FAIL when the policy wants it and it is off, else WARN."""
    security = host.security
    if security.secure_boot is None and host.boot.firmware != "bios":
        return unknown("the EFI variable SecureBoot")
    if security.secure_boot and security.secure_boot_setup_mode:
        return Outcome(
            RISK, "on, but in setup mode: anybody may enrol keys", "enrol the platform key in the firmware setup"
        )
    if security.secure_boot:
        return Outcome(PASS, "on")
    why = "a legacy BIOS has none" if host.boot.firmware == "bios" else "off"
    return Outcome(
        FAIL if policy.secure_boot else WARN,
        why,
        f"apt-get install shim-signed grub-efi-{debian_architecture(host)}-signed, then enable Secure Boot "
        "in the firmware setup",
    )


@check(
    "kernel-lockdown",
    "security",
    "The kernel is locked down against its own administrator",
    why="Lockdown keeps root from writing to kernel memory, so that a stolen root account does not become a "
    "silent implant.",
    reference="Linux: kernel_lockdown(7)",
)
def kernel_lockdown(host: Host, _policy: Policy) -> Outcome:
    """RISK when Secure Boot is on and lockdown is not; INFO without Secure Boot."""
    found = host.security.lockdown
    if found is None:
        return unknown("/sys/kernel/security/lockdown")
    if found != "none":
        return Outcome(PASS, found)
    if host.security.secure_boot:
        return Outcome(RISK, "none, although Secure Boot is on", set_parameter(host, "lockdown=integrity"))
    return Outcome(INFO, "none", set_parameter(host, "lockdown=integrity"))


@check(
    "module-signatures",
    "security",
    "The kernel loads signed modules only",
    why="An unsigned module is code in the kernel that nobody vouched for. Locally built modules need a key of "
    "this machine (MOK).",
    reference="Linux: Documentation/admin-guide/module-signing.rst",
)
def module_signatures(host: Host, _policy: Policy) -> Outcome:
    """RISK when Secure Boot is on and signatures are not enforced; INFO without Secure Boot."""
    enforced = host.security.is_signature_enforced
    if enforced is None:
        return unknown("the parameter sig_enforce")
    if enforced or host.security.lockdown in ("integrity", "confidentiality"):
        return Outcome(PASS, "enforced" if enforced else f"enforced by lockdown {host.security.lockdown}")
    return Outcome(
        RISK if host.security.secure_boot else INFO, "not enforced", set_parameter(host, "module.sig_enforce=1")
    )


@check(
    "cpu-vulnerabilities",
    "security",
    "Known side channels of this processor are closed",
    why="Guests of different tenants share cores and caches; an open one lets a guest read the host's or another "
    "guest's memory.",
    reference="Linux: Documentation/admin-guide/hw-vuln/index.rst",
)
def cpu_vulnerabilities(host: Host, _policy: Policy) -> Outcome:
    """RISK that lists what the kernel calls vulnerable."""
    found = host.cpu.vulnerabilities
    if not found:
        return unknown("/sys/devices/system/cpu/vulnerabilities")
    opened = sorted(f"{name}: {text}" for name, text in found.items() if text.lower().startswith("vulnerable"))
    if not opened:
        return Outcome(PASS, f"{len(found)} known, none open")
    return Outcome(
        RISK,
        join(opened, 6),
        "install microcode and kernel updates, remove mitigations=off from the kernel command line, then reboot",
    )


@check(
    "mitigations",
    "security",
    "Side-channel mitigations are not switched off",
    why="mitigations=off trades the boundary between tenants for a few percent of speed.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, mitigations",
)
def mitigations(host: Host, _policy: Policy) -> Outcome:
    """RISK when the command line switches them off as a whole."""
    if host.security.mitigations_off is None:
        return unknown("/proc/cmdline")
    if not host.security.mitigations_off:
        return Outcome(PASS, "not switched off")
    return Outcome(
        RISK, f"mitigations={host.boot.parameter('mitigations') or 'off'}", drop_parameter(host, "mitigations=")
    )


@check(
    "smt",
    "security",
    "Hardware threads of one core do not leak between guests",
    why="With SMT two guests may run on one core at once; on some processors each then reads what the other one loads.",
    reference="Linux: Documentation/admin-guide/hw-vuln/l1tf.rst, mds.rst; core-scheduling.rst",
)
def smt(host: Host, _policy: Policy) -> Outcome:
    """RISK when SMT is on and the kernel calls it vulnerable."""
    if host.cpu.smt is None or not host.cpu.vulnerabilities:
        return unknown("/sys/devices/system/cpu/smt/control or the list of vulnerabilities")
    if host.cpu.smt != "on":
        return Outcome(PASS, f"SMT {host.cpu.smt}")
    leaks = sorted(name for name, text in host.cpu.vulnerabilities.items() if "smt vulnerable" in text.lower())
    if not leaks:
        return Outcome(PASS, "SMT on, and the kernel knows no leak between threads here")
    return Outcome(RISK, f"SMT on, vulnerable by {join(leaks)}", set_parameter(host, "mitigations=auto,nosmt"))


@check(
    "kernel-pointers",
    "security",
    "Kernel addresses and messages are not for every user",
    why="Both tell an attacker who escaped from a guest where to aim.",
    reference="Linux: Documentation/admin-guide/sysctl/kernel.rst, kptr_restrict, dmesg_restrict",
)
def kernel_pointers(host: Host, _policy: Policy) -> Outcome:
    """WARN when either is 0."""
    pointers, messages = host.security.kptr_restrict, host.security.dmesg_restrict
    if pointers is None or messages is None:
        return unknown("/proc/sys/kernel/kptr_restrict or dmesg_restrict")
    evidence = f"kernel.kptr_restrict={pointers}, kernel.dmesg_restrict={messages}"
    if pointers and messages:
        return Outcome(PASS, evidence)
    return Outcome(WARN, evidence, sysctl("kernel.kptr_restrict=1") + "\n" + sysctl("kernel.dmesg_restrict=1"))


@check(
    "mandatory-access",
    "security",
    "A mandatory access control module is active",
    why="A virtual machine monitor that a guest took over is then still kept to its own files and devices.",
    reference="Linux: Documentation/admin-guide/LSM/index.rst",
)
def mandatory_access(host: Host, _policy: Policy) -> Outcome:
    """RISK without AppArmor, SELinux or the like."""
    if not host.security.lsms:
        return unknown("/sys/kernel/security/lsm")
    active = [name for name in host.security.lsms if name in _MANDATORY]
    if active:
        return Outcome(PASS, join(active))
    return Outcome(
        RISK,
        f"none of {join(_MANDATORY)} among {join(host.security.lsms)}",
        set_parameter(host, "lsm=landlock,lockdown,yama,integrity,apparmor,bpf"),
    )


@check(
    "tpm",
    "security",
    "The host has a TPM",
    why="With one, a host can prove what it booted, and keys can be sealed to that.",
    reference="TCG PC Client Platform Firmware Profile",
)
def tpm(host: Host, _policy: Policy) -> Outcome:
    """INFO without one."""
    if host.security.has_tpm is None:
        return unknown("/sys/class/tpm")
    return (
        Outcome(PASS, "present")
        if host.security.has_tpm
        else Outcome(INFO, "none, or switched off in the firmware setup")
    )
