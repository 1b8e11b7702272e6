# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How the host boots: command line, firmware, boot loader and its own files, initramfs tool, installed kernels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from .model import Boot, ConfigFile, Kernel
from .storage import Mount
from .tree import Tree

_LOADER_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
EFIVARS = "sys/firmware/efi/efivars"
_EFI_ATTRIBUTES_BYTES = 4
_GRUB = re.compile(r"\s*(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)=(.*)")
_ESP_TARGETS = ("boot/efi", "efi", "boot")
_INITRAMFS = {
    "usr/sbin/update-initramfs": "initramfs-tools",
    "usr/bin/dracut": "dracut",
    "usr/bin/mkinitcpio": "mkinitcpio",
}
#: Build options that decide passthrough, virtualization and how strictly the kernel guards itself.
CONFIG_NAMES = (
    *("IOMMUFD", "INTEL_IOMMU", "INTEL_IOMMU_DEFAULT_ON", "AMD_IOMMU", "IRQ_REMAP"),
    *("IOMMU_DEFAULT_DMA_STRICT", "IOMMU_DEFAULT_DMA_LAZY", "IOMMU_DEFAULT_PASSTHROUGH"),
    *("VFIO", "VFIO_PCI", "VFIO_IOMMU_TYPE1", "VFIO_NOIOMMU", "PCI_IOV", "VHOST_NET", "VHOST_VSOCK", "TUN"),
    *("KVM", "KVM_INTEL", "KVM_AMD", "KVM_AMD_SEV", "AMD_MEM_ENCRYPT", "INTEL_TDX_HOST"),
    *("NUMA", "HUGETLBFS", "CGROUPS", "EFI", "MODULE_SIG", "MODULE_SIG_FORCE", "SECURITY_LOCKDOWN_LSM"),
)
_CONFIG = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)


def read_boot(tree: Tree, mounts: list[Mount]) -> Boot:
    """Return how the host boots; ``mounts`` tell where the EFI system partition is."""
    is_uefi = tree.is_directory("sys/firmware/efi")
    info = efi_text(tree, f"LoaderInfo-{_LOADER_VENDOR}") if is_uefi else None
    loader, version, evidence = _loader(tree, info)
    return Boot(
        cmdline=tree.text("proc/cmdline"),
        firmware="uefi" if is_uefi else ("bios" if tree.is_directory("sys/firmware") else None),
        loader=loader,
        loader_version=version,
        loader_evidence=evidence,
        loader_settings=tuple(_settings(tree)),
        esp_paths=tuple(
            f"/{target}"
            for target in _ESP_TARGETS
            if any(each.target == f"/{target}" and each.filesystem == "vfat" for each in mounts)
        ),
        initramfs=next((name for path, name in _INITRAMFS.items() if tree.exists(path)), None),
        kernels=tuple(name.removeprefix("vmlinuz-") for name in tree.names("boot") if name.startswith("vmlinuz-")),
        is_reboot_required=tree.exists("run/reboot-required") if tree.is_directory("run") else None,
    )


def read_kernel(tree: Tree, release: str | None) -> Kernel:
    """Return the running kernel and the build options that matter, from the file that Debian installs with it."""
    config: dict[str, str] = {}
    if release and "/" not in release:
        text = tree.text(f"boot/config-{release}") or tree.text(f"lib/modules/{release}/config") or ""
        found = dict(_CONFIG.findall(text))
        config = {name: found.get(name, "n").strip('"') for name in CONFIG_NAMES} if found else {}
    return Kernel(release, tree.word("proc/sys/kernel/version"), config, tree.count("proc/sys/kernel/tainted"))


def efi_value(tree: Tree, name: str) -> bytes | None:
    """Return an EFI variable's value, without the four bytes of attributes before it."""
    data = tree.content(f"{EFIVARS}/{name}", 4096)
    return data[_EFI_ATTRIBUTES_BYTES:] if data and len(data) > _EFI_ATTRIBUTES_BYTES else None


def efi_text(tree: Tree, name: str) -> str | None:
    """Return an EFI variable that holds text in UTF-16."""
    value = efi_value(tree, name)
    return value.decode("utf-16-le", "replace").strip("\0") if value else None


def _loader(tree: Tree, info: str | None) -> tuple[str | None, str | None, str | None]:
    """Return (loader, its version, what told). The loader's own word comes before files that one may have left."""
    if info:
        name, _space, version = info.partition(" ")
        for known in ("systemd-boot", "grub"):
            if name.lower() == known:
                return known, version or None, f"EFI variable LoaderInfo says {info}"
    for path in ("boot/grub/grub.cfg", "boot/grub2/grub.cfg"):
        if tree.exists(path):
            return "grub", None, f"/{path} exists"
    for base in ("boot/efi", "efi", "boot"):
        if tree.exists(f"{base}/loader/loader.conf") or tree.names(f"{base}/loader/entries"):
            return "systemd-boot", None, f"/{base}/loader exists"
    if not tree.is_directory("boot"):
        return None, None, None
    return "none", None, "neither GRUB's nor systemd-boot's files are in /boot"


def _settings(tree: Tree) -> Iterator[ConfigFile]:
    names = [name for name in tree.names("etc/default/grub.d") if name.endswith(".cfg")]
    for path in ("etc/default/grub", *(f"etc/default/grub.d/{name}" for name in names)):
        for number, line in enumerate(tree.lines(path), start=1):
            match = _GRUB.match(line)
            if match:
                yield ConfigFile(f"/{path}", number, match[1], _unquoted(tree, path, number, match[2]))
    cmdline = tree.text("etc/kernel/cmdline")
    if cmdline is not None:
        yield ConfigFile("/etc/kernel/cmdline", 1, "cmdline", cmdline)


def _unquoted(tree: Tree, path: str, number: int, value: str) -> str:
    """Return a shell value without its quotes; variables in it stay as they are written."""
    try:
        return " ".join(shlex.split(value, comments=True))
    except ValueError as error:
        tree.trouble(path, f"line {number}: {error}: {value[:40]!r}")
        return value
