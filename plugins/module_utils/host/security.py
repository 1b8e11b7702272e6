# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Security posture, confidential computing, limits of locked memory."""

from __future__ import annotations

from collections.abc import Iterator

from .boot import efi_value
from .memory import chosen
from .model import Boot, Confidential, ConfigFile, Cpu, Limits, Security
from .tree import Tree, parse_integer

_GLOBAL_VARIABLES = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_CONFIDENTIAL_FLAGS = ("sme", "sev", "sev_es", "sev_snp", "tme", "tdx_host_platform", "tdx_guest")
_UNLIMITED = -1


def read_security(tree: Tree, boot: Boot) -> Security:
    """Return how strictly the host guards its own kernel."""
    tpms = tree.names("sys/class/tpm")
    return Security(
        secure_boot=False if boot.firmware == "bios" else _efi_switch(tree, "SecureBoot"),
        secure_boot_setup_mode=_efi_switch(tree, "SetupMode"),
        lockdown=chosen(tree.text("sys/kernel/security/lockdown")),
        is_signature_enforced=tree.flag("sys/module/module/parameters/sig_enforce"),
        lsms=tuple(name for name in (tree.text("sys/kernel/security/lsm") or "").split(",") if name),
        mitigations_off=None if boot.cmdline is None else boot.parameter("mitigations") == "off",
        has_tpm=bool(tpms) if tree.is_directory("sys/class") else None,
        kptr_restrict=tree.count("proc/sys/kernel/kptr_restrict"),
        dmesg_restrict=tree.count("proc/sys/kernel/dmesg_restrict"),
        is_kexec_disabled=tree.flag("proc/sys/kernel/kexec_load_disabled"),
    )


def read_confidential(tree: Tree, cpu: Cpu, boot: Boot) -> Confidential:
    """Return what the host offers to confidential guests."""
    flags = tuple(flag for flag in _CONFIDENTIAL_FLAGS if flag in cpu.flags)
    encrypted = boot.parameter("mem_encrypt")
    guest = tree.exists("dev/sev-guest") or tree.exists("dev/tdx_guest") or "tdx_guest" in flags
    return Confidential(
        flags=flags,
        sev=tree.flag("sys/module/kvm_amd/parameters/sev"),
        sev_es=tree.flag("sys/module/kvm_amd/parameters/sev_es"),
        sev_snp=tree.flag("sys/module/kvm_amd/parameters/sev_snp"),
        tdx=tree.flag("sys/module/kvm_intel/parameters/tdx"),
        is_memory_encrypted=encrypted == "on" if encrypted else None,
        is_guest=guest,
    )


def read_limits(tree: Tree) -> Limits:
    """Return limits of locked memory: VFIO pins all of a guest's memory."""
    soft, hard = _memlock(tree)
    return Limits(
        memlock_soft_bytes=soft,
        memlock_hard_bytes=hard,
        systemd_memlock=_systemd_memlock(tree),
        configured=tuple(_configured(tree)),
        max_map_count=tree.count("proc/sys/vm/max_map_count"),
        pid_max=tree.count("proc/sys/kernel/pid_max"),
        file_max=tree.count("proc/sys/fs/file-max"),
    )


def _efi_switch(tree: Tree, name: str) -> bool | None:
    value = efi_value(tree, f"{name}-{_GLOBAL_VARIABLES}")
    return None if value is None else value[0] == 1


def _memlock(tree: Tree) -> tuple[int | None, int | None]:
    for line in tree.lines("proc/self/limits"):
        if line.startswith("Max locked memory"):
            words = line.removeprefix("Max locked memory").split()
            values = [_UNLIMITED if word == "unlimited" else parse_integer(word) for word in words[:2]]
            return (values[0], values[1]) if len(values) == 2 else (None, None)
    return None, None


def _systemd_memlock(tree: Tree) -> str | None:
    """Return DefaultLimitMEMLOCK= as the last file that sets it says; drop-ins come after the main file."""
    directory = "etc/systemd/system.conf.d"
    drop_ins = [f"{directory}/{name}" for name in tree.names(directory) if name.endswith(".conf")]
    found = None
    for path in ("etc/systemd/system.conf", *drop_ins):
        for line in tree.lines(path):
            key, equals, value = line.partition("=")
            if equals and key.strip() == "DefaultLimitMEMLOCK":
                found = value.strip()
    return found


def _configured(tree: Tree) -> Iterator[ConfigFile]:
    directory = "etc/security/limits.d"
    drop_ins = [f"{directory}/{name}" for name in tree.names(directory) if name.endswith(".conf")]
    for path in ("etc/security/limits.conf", *drop_ins):
        for number, line in enumerate(tree.lines(path), start=1):
            words = line.partition("#")[0].split()
            if len(words) == 4 and words[2] == "memlock":
                yield ConfigFile(f"/{path}", number, f"{words[0]} {words[1]}", words[3])
