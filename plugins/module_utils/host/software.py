# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Installed software: packages that matter, virtual machine monitors, time synchronisation."""

from __future__ import annotations

import re

from .model import Packages, Program, Time, Vmm
from .tree import Tree

#: Packages whose presence or version decides something; one ending in a hyphen stands for all that begin so.
NAMES = (
    *("qemu-", "ovmf", "qemu-efi-aarch64", "swtpm", "virtiofsd", "cloud-hypervisor", "libvirt-daemon"),
    *("linux-image-", "linux-headers-", "firmware-", "intel-microcode", "amd64-microcode"),
    *("nvidia-", "libnvidia-", "cuda-drivers", "datacenter-gpu-manager", "dkms"),
    *("initramfs-tools", "dracut", "kmod", "udev", "pciutils", "grub-efi-amd64", "grub-pc", "systemd-boot"),
    *("systemd", "chrony", "ntpsec", "systemd-timesyncd", "python3", "openssh-server", "numactl", "containerd"),
    *("nftables", "iproute2", "bridge-utils", "nfs-common", "apparmor", "mokutil"),
)
_PREFIXES = tuple(name for name in NAMES if name.endswith("-"))
_EXACT = frozenset(NAMES)
_VERSION = re.compile(r"^Version: (.+)$", re.MULTILINE)
_STATUS = re.compile(r"^Status: \S+ \S+ (\S+)$", re.MULTILINE)
_UNFINISHED = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "usr/libexec", "usr/lib/qemu")
#: Programs and the packages they come in, where Debian has one.
_PROGRAMS = {
    "cloud-hypervisor": "cloud-hypervisor",
    "ch-remote": "cloud-hypervisor",
    "vllmd-hypervisor": None,
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "libvirtd": "libvirt-daemon",
    "virtiofsd": "virtiofsd",
    "swtpm": "swtpm",
    "nvidia-smi": "nvidia-smi",
    "nvidia-persistenced": "nvidia-persistenced",
    "nv-fabricmanager": "nvidia-fabricmanager",
    "nv-hostengine": "datacenter-gpu-manager",
    "containerd": "containerd",
}
_FIRMWARE = {
    "usr/share/OVMF": ("OVMF_CODE", "OVMF.fd"),
    "usr/share/AAVMF": ("AAVMF_CODE",),
    "usr/share/cloud-hypervisor": ("hypervisor-fw", "CLOUDHV"),
    "usr/share/qemu": ("bios-microvm.bin", "qboot.rom"),
}
# adjtimex(2): the state in which the kernel's clock follows nothing.
_TIME_ERROR = 5


def read_packages(tree: Tree, also: tuple[str, ...] = ()) -> Packages:
    """Return the packages that matter and those named in ``also``, from dpkg's own database."""
    data = tree.content("var/lib/dpkg/status")
    if data is None:
        is_rpm = tree.is_directory("var/lib/rpm") or tree.is_directory("usr/lib/sysimage/rpm")
        return Packages("rpm" if is_rpm else None)
    installed, unfinished = {}, []
    for paragraph in data.split(b"\n\n"):
        if not paragraph.startswith(b"Package: "):
            continue
        first, _newline, rest = paragraph.partition(b"\n")
        name = first[9:].decode("utf-8", "replace").strip()
        wanted = name in _EXACT or name in also or name.startswith(_PREFIXES)
        # Of a thousand packages nearly all are installed and of no interest: look no further into those.
        if not wanted and rest.startswith(b"Status: install ok installed"):
            continue
        text = rest.decode("utf-8", "replace")
        status, version = _STATUS.search(text), _VERSION.search(text)
        if status and status[1] in _UNFINISHED:
            unfinished.append(name)
        if wanted and status and version and status[1] == "installed":
            installed[name] = version[1]
    count = data.count(b"\nStatus: install ok installed")
    return Packages("dpkg", count, dict(sorted(installed.items())), tuple(sorted(unfinished)))


def read_vmm(tree: Tree, packages: Packages) -> Vmm:
    """Return the programs that are there; their packages say which versions, nothing is run."""
    programs = {}
    for name, package in _PROGRAMS.items():
        directory = next((each for each in _PATH if tree.exists(f"{each}/{name}")), None)
        if directory:
            version = packages.installed.get(package) if package else None
            programs[name] = Program(name, f"/{directory}/{name}", version, package if version else None)
    files = [
        f"/{directory}/{name}"
        for directory, prefixes in _FIRMWARE.items()
        for name in tree.names(directory)
        if name.startswith(prefixes)
    ]
    return Vmm(programs, tuple(files))


def read_time(tree: Tree) -> Time:
    """Return which daemon keeps the time and whether it does."""
    daemon = None
    if tree.exists("run/chrony/chronyd.pid"):
        daemon = "chrony"
    elif tree.exists("run/systemd/timesync"):
        daemon = "systemd-timesyncd"
    elif tree.exists("run/ntpd.pid") or tree.exists("run/ntpsec"):
        daemon = "ntp"
    zone = tree.link_path("etc/localtime") or ""
    return Time(
        daemon=daemon,
        is_synchronized=_synchronized(tree),
        clocksource=tree.word("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        timezone=zone.partition("zoneinfo/")[2] or tree.word("etc/timezone"),
    )


def _synchronized(tree: Tree) -> bool | None:
    if not tree.is_live:
        noted = tree.captured("is_time_synchronized")
        return noted if isinstance(noted, bool) else None
    if tree.exists("run/systemd/timesync/synchronized"):
        return True
    import ctypes  # noqa: PLC0415 - costs milliseconds, needed only where no file tells

    try:
        # struct timex is 208 bytes; with modes 0 it is only read.
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR
