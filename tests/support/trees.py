#!/usr/bin/env python3
"""A host's files as one text file: capture them on a live host, lay them out below a directory in a test.

    python3 tests/support/trees.py capture OUT.json     # as root, with nothing but this file

A tree is ``{path: content}`` with paths relative to the root. Content is text, or one of ``{"link": target}``,
``{"dir": true}``, ``{"size": bytes}`` (zeros), ``{"hex": digits}`` (bytes) and ``{"json": value}``. No serial numbers,
keys, environments or addresses of network cards are captured, nor who is connected.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = str | dict[str, Any]
Tree = dict[str, Entry]
CAPTURED = ".captured.json"

#: Files that are taken as they are; a pattern is a glob below the root.
FILES = (
    *("proc/cmdline", "proc/meminfo", "proc/modules", "proc/iomem", "proc/fb", "proc/swaps", "proc/cgroups"),
    *("proc/self/mountinfo", "proc/self/limits", "proc/net/route", "proc/net/ipv6_route", "proc/2/task/2/children"),
    *("proc/sys/kernel/{arch,hostname,osrelease,version,tainted,numa_balancing,kptr_restrict,dmesg_restrict}",),
    *("proc/sys/kernel/{kexec_load_disabled,pid_max}", "proc/sys/kernel/random/boot_id", "proc/sys/fs/file-max"),
    *("proc/sys/vm/{overcommit_memory,swappiness,max_map_count}", "proc/sys/net/ipv4/ip_forward"),
    *("proc/sys/net/ipv6/conf/all/forwarding", "proc/driver/nvidia/version", "proc/driver/nvidia/gpus/*/information"),
    *("proc/device-tree/model", "sys/class/dmi/id/{sys_vendor,product_name,board_name,bios_version,bios_date}"),
    *("sys/devices/system/cpu/{online,present,isolated,nohz_full,smt/control,vulnerabilities/*}",),
    *("sys/devices/system/cpu/cpu[0-9]*/topology/{thread_siblings_list,physical_package_id}",),
    *("sys/devices/system/cpu/cpufreq/policy*/scaling_governor", "sys/devices/system/node/node*/{cpulist,distance}"),
    *("sys/devices/system/node/node*/meminfo", "sys/devices/system/node/node*/hugepages/*/*_hugepages"),
    *("sys/devices/system/clocksource/clocksource0/current_clocksource", "sys/kernel/mm/hugepages/*/*_hugepages"),
    *("sys/kernel/mm/transparent_hugepage/enabled", "sys/kernel/mm/ksm/run", "sys/kernel/irq/*/chip_name"),
    *("sys/kernel/security/{lockdown,lsm}", "sys/fs/cgroup/cgroup.controllers", "sys/hypervisor/type"),
    *("sys/kernel/iommu_groups/*/{type,reserved_regions}", "sys/bus/pci/slots/*/address"),
    *("sys/class/iommu/*/{intel-iommu,amd-iommu}/{cap,ecap,version,features}",),
    *("sys/module/{kvm,kvm_intel,kvm_amd,vfio,vfio_iommu_type1,vfio_pci,module}/parameters/*",),
    *("sys/module/nvidia/version", "sys/class/tty/console/active", "sys/class/vtconsole/*/{name,bind}"),
    *("etc/os-release", "usr/lib/os-release", "etc/default/grub", "etc/default/grub.d/*.cfg", "etc/kernel/cmdline"),
    *("{etc,run,usr/local/lib,usr/lib,lib}/modprobe.d/*.conf", "{etc,run,usr/lib}/modules-load.d/*.conf"),
    *("etc/modules", "etc/systemd/system.conf", "etc/systemd/system.conf.d/*.conf", "etc/security/limits.conf"),
    *("etc/security/limits.d/*.conf", "etc/timezone", "boot/loader/loader.conf", "run/systemd/container"),
    "boot/efi/loader/loader.conf",
)
#: Files of which only their being there matters.
PRESENT = (
    *("boot/vmlinuz-*", "boot/grub/grub.cfg", "usr/sbin/update-initramfs", "usr/bin/dracut", "usr/bin/mkinitcpio"),
    *("sys/firmware/acpi/tables/{DMAR,IVRS,IORT,VIOT}", "sys/class/tpm/tpm*", "run/reboot-required"),
    *("usr/bin/{qemu-system-*,cloud-hypervisor,ch-remote,swtpm,nvidia-smi,containerd}", "usr/sbin/libvirtd"),
    *("usr/local/bin/{cloud-hypervisor,ch-remote,vllmd-hypervisor}", "usr/bin/nvidia-persistenced"),
    *("usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd", "usr/share/OVMF/*", "usr/share/AAVMF/*"),
    *(
        "usr/share/qemu/{bios-microvm.bin,qboot.rom}",
        "run/chrony/chronyd.pid",
        "run/systemd/timesync/synchronized",
        ".dockerenv",
    ),
)
DIRECTORIES = (
    *("run/systemd/system", "run/systemd/timesync", "sys/firmware/efi", "sys/firmware", "boot", "run", "sys/class"),
    *("var/lib/vllmd", "var/lib/vllmd/images", "var/cache/vllmd", "var/log", "tmp", "sys/module/kvm"),
    *("sys/module/kvm_intel", "sys/module/kvm_amd", "sys/fs/cgroup", "sys/fs/cgroup/unified", "sys/fs/cgroup/systemd"),
)
NODES = ("kvm", "iommu", "net/tun", "vhost-net", "vhost-vsock", "sev", "kfd", "nvidia*", "vfio/*", "dri/*")
SPACE = ("", "boot", "var/lib/vllmd", "var/lib/vllmd/images", "var/cache/vllmd", "var/log", "tmp", "var", "var/lib")
_LINKS = ("driver", "iommu_group", "physfn", "subsystem")
_NOT_CAPTURED = {"config", "rom", "vpd", "remove", "rescan", "reset", "label", "p2pmem"}
_MODULES = re.compile(r"vfio|kvm|iommufd|nvidia|nouveau|nova|amdgpu|radeon|i915|/xe|snd.hda.intel|vhost|/tun")
_CLASS_FILES = {
    "net": ("operstate", "mtu", "speed", "carrier", "uevent"),
    "block": ("dev", "size", "partition", "queue/rotational", "dm/name", "loop/backing_file", "device/model"),
    "drm": ("status",),
}


def load(path: Path) -> Tree:
    """Return the tree in a ``.tree.json`` file."""
    tree: Tree = json.loads(path.read_text(encoding="utf-8"))
    return tree


def dump(tree: Tree) -> str:
    """Return a tree as text, one path a line, so that differences can be read."""
    rows = [f"{json.dumps(path)}: {json.dumps(tree[path])}" for path in sorted(tree)]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def materialise(tree: Tree, root: Path) -> Path:
    """Lay the tree out below ``root`` and return it; a path that is a directory and a file is a directory."""
    made: set[str] = set()
    for path, entry in tree.items():
        full = f"{root}/{path}"
        directory = full if isinstance(entry, dict) and "dir" in entry else os.path.dirname(full)
        if directory not in made:
            Path(directory).mkdir(parents=True, exist_ok=True)
            made.add(directory)
        if isinstance(entry, dict) and "link" in entry:
            os.symlink(entry["link"], full)
        elif not (isinstance(entry, dict) and "dir" in entry) and not os.path.isdir(full):
            descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(descriptor, _bytes(entry))
            finally:
                os.close(descriptor)
    return root


def _bytes(entry: Entry) -> bytes:
    if isinstance(entry, str):
        return entry.encode()
    if "hex" in entry:
        return bytes.fromhex(entry["hex"])
    return json.dumps(entry["json"]).encode() if "json" in entry else bytes(entry["size"])


class _Capture:
    """Collects a live host's tree."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.release = os.uname().release

    def all(self) -> Tree:
        """Return the whole tree."""
        for pattern in FILES:
            for path in self._glob(pattern):
                self._file(path)
        for pattern in PRESENT:
            self.tree.update({path: {"size": 0} for path in self._glob(pattern)})
        for path in DIRECTORIES:
            if os.path.isdir(f"/{path}"):
                self.tree.setdefault(path, {"dir": True})
        self._first_lines()
        self._devices()
        self._config()
        self._modules()
        self._packages()
        self._processes()
        self._accounts()
        nodes = [path for pattern in NODES for path in self._glob(f"dev/{pattern}") if not os.path.isdir(f"/{path}")]
        self.tree.update({path: {"size": 0} for path in nodes})
        self.tree[CAPTURED] = {"json": {"nodes": _nodes(nodes), "space": _space(), "kvm": _kvm(), **_time()}}
        return self.tree

    def _devices(self) -> None:
        for name in _names("sys/bus/pci/devices"):
            self._pci(name)
        for group in _names("sys/kernel/iommu_groups"):
            for name in _names(f"sys/kernel/iommu_groups/{group}/devices"):
                self._link(f"sys/kernel/iommu_groups/{group}/devices/{name}")
        for unit in _names("sys/class/iommu"):
            self.tree.setdefault(f"sys/class/iommu/{unit}", {"dir": True})
            for name in _names(f"sys/class/iommu/{unit}/devices"):
                self._link(f"sys/class/iommu/{unit}/devices/{name}")
        for kind in ("net", "block", "drm", "graphics", "sound", "input", "nvme", "nvme-subsystem", "infiniband_verbs"):
            for name in _names(f"sys/class/{kind}"):
                self._class(kind, name)

    def _glob(self, pattern: str) -> Iterator[str]:
        for each in _braces(pattern.replace("{release}", self.release)):
            if "*" not in each and "[" not in each:
                yield from [each] if os.path.lexists(f"/{each}") else []
                continue
            yield from sorted(str(path)[1:] for path in Path("/").glob(each))

    def _file(self, path: str) -> None:
        try:
            # Files of /proc/sys refuse reads of megabytes, so none are asked for.
            with open(f"/{path}", "rb", buffering=0) as stream:
                data = b"".join(iter(lambda: stream.read(65536), b""))
        except OSError:
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.tree[path] = {"hex": data.hex()}
            return
        self.tree[path] = _without_comments(text) if path.startswith(("etc/", "usr/", "lib/", "run/")) else text

    def _link(self, path: str) -> None:
        if os.path.islink(f"/{path}"):
            self.tree[path] = {"link": os.readlink(f"/{path}")}

    def _first_lines(self) -> None:
        """Take of large files what the readers look at."""
        for path, most in (("proc/cpuinfo", 8192), ("proc/interrupts", 65536)):
            with open(f"/{path}", encoding="utf-8", errors="replace") as stream:
                self.tree[path] = stream.read(most)
        path = f"boot/config-{self.release}"
        if os.path.exists(f"/{path}"):
            with open(f"/{path}", encoding="utf-8") as stream:
                wanted = ("IOMMU", "VFIO", "KVM", "MODULE_SIG", "IRQ_REMAP", "PCI_IOV", "NUMA", "HUGETLB", "LOCKDOWN")
                lines = [line for line in stream if line.startswith("CONFIG_") and any(word in line for word in wanted)]
            self.tree[path] = "".join(lines)

    def _pci(self, bdf: str) -> None:
        link = f"sys/bus/pci/devices/{bdf}"
        self._link(link)
        base = os.path.realpath(f"/{link}")[1:]
        for name in _names(base):
            path = f"{base}/{name}"
            if name in _LINKS or name.startswith(("virtfn", "consumer:", "supplier:")):
                self._link(path)
            elif name in ("reset", "rom"):
                self.tree[path] = {"size": 0}
            elif name in ("net", "drm", "nvme", "infiniband_verbs", "vfio-dev"):
                for child in _names(path):
                    self.tree.setdefault(f"{path}/{child}", {"dir": True})
            elif name not in _NOT_CAPTURED and not name.startswith("resource") and os.path.isfile(f"/{path}"):
                self._file(path)
        for name in ("resource", "power/runtime_status"):
            self._file(f"{base}/{name}")
        self._config_space(base)

    def _config_space(self, base: str) -> None:
        """Take a bridge's configuration space for its ACS capability."""
        if str(self.tree.get(f"{base}/class", "")).startswith("0x0604"):
            with open(f"/{base}/config", "rb") as stream:
                data = stream.read(4096)
            length = -(-len(data.rstrip(b"\0")) // 16) * 16
            self.tree[f"{base}/config"] = {"hex": data[:length].hex()}

    def _class(self, kind: str, name: str) -> None:
        link = f"sys/class/{kind}/{name}"
        self._link(link)
        base = os.path.realpath(f"/{link}")[1:]
        if kind == "nvme-subsystem":
            for each in _names(base):
                self._link(f"{base}/{each}")
        if not os.path.isdir(f"/{base}"):
            return
        self.tree.setdefault(base, {"dir": True})
        for each in _CLASS_FILES.get(kind, ()):
            self._file(f"{base}/{each}")
        for each in _names(base):
            if each.startswith(("lower_", "master")) or (each == "device" and kind == "net"):
                self._link(f"{base}/{each}")
            if each == "device" and kind == "net":
                device = os.path.realpath(f"/{base}/device")[1:]
                self.tree.setdefault(device, {"dir": True})
                self._link(f"{device}/driver")
                self._link(f"{device}/physfn")
        for each in _names(f"{base}/slaves") if kind == "block" else ():
            self._link(f"{base}/slaves/{each}")

    def _config(self) -> None:
        self._link("etc/localtime")
        for name in ("SecureBoot", "SetupMode", "LoaderInfo"):
            for path in self._glob(f"sys/firmware/efi/efivars/{name}-*"):
                self._file(path)

    def _modules(self) -> None:
        """Take of the lists of modules what is about passthrough."""
        for name in ("modules.alias", "modules.builtin", "modules.dep"):
            path = f"lib/modules/{self.release}/{name}"
            if os.path.exists(f"/{path}"):
                with open(f"/{path}", encoding="utf-8") as stream:
                    lines = [line.partition(":")[0] + "\n" if name == "modules.dep" else line for line in stream]
                wanted = re.compile("^alias vfio_pci:") if name == "modules.alias" else _MODULES
                self.tree[path] = "".join(line for line in lines if wanted.search(line))

    def _packages(self) -> None:
        """Take of each package its name, status and version."""
        path = "var/lib/dpkg/status"
        if os.path.exists(f"/{path}"):
            with open(f"/{path}", encoding="utf-8") as stream:
                paragraphs = stream.read().split("\n\n")
            keep = re.compile(r"^(?:Package|Status|Version): .*$", re.MULTILINE)
            self.tree[path] = "\n\n".join("\n".join(keep.findall(each)) for each in paragraphs) + "\n"

    def _processes(self) -> None:
        """Take the open device files and who holds them."""
        for pid in (name for name in _names("proc") if name.isdigit() and int(name) != os.getpid()):
            held = {}
            for number in _names(f"proc/{pid}/fd"):
                try:
                    target = os.readlink(f"/proc/{pid}/fd/{number}")
                except OSError:
                    continue
                if target.startswith("/dev/") and not target.startswith(("/dev/pts", "/dev/null", "/dev/tty")):
                    held[f"proc/{pid}/fd/{number}"] = target
            for path, target in held.items():
                self.tree[path] = {"link": target}
            for name in ("comm", "cgroup") if held else ():
                self._file(f"proc/{pid}/{name}")

    def _accounts(self) -> None:
        """Take names and numbers of users and groups, nothing else of them."""
        for path in ("etc/passwd", "etc/group"):
            with open(f"/{path}", encoding="utf-8") as stream:
                rows = [line.rstrip("\n").split(":") for line in stream]
            if path == "etc/passwd":
                self.tree[path] = "".join(f"{row[0]}:x:{row[2]}:{row[3]}::/:\n" for row in rows)
            else:
                self.tree[path] = "".join(f"{row[0]}:x:{row[2]}:{row[3]}\n" for row in rows)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(f"/{path}"))
    except OSError:
        return []


def _without_comments(text: str) -> str:
    """Return a configuration file's lines that count; the rest is the distribution's prose."""
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() and not line.startswith("#"))


def _braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    parts = [pattern[: match.start()] + word + pattern[match.end() :] for word in match[1].split(",")]
    return [each for part in parts for each in _braces(part)]


def _nodes(paths: list[str]) -> dict[str, dict[str, int]]:
    found = {path: os.stat(f"/{path}") for path in paths}
    return {
        path: {"mode": each.st_mode & 0o7777, "uid": each.st_uid, "gid": each.st_gid} for path, each in found.items()
    }


def _space() -> dict[str, list[int]]:
    space = {}
    for path in SPACE:
        if os.path.isdir(f"/{path}"):
            found = os.statvfs(f"/{path}")
            size, available = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
            space[path] = [size, available, found.f_favail]
    return space


def _kvm() -> dict[str, Any]:
    """Make a virtual machine: KVM_CREATE_VM of linux/kvm.h."""
    try:
        descriptor = os.open("/dev/kvm", os.O_RDWR)
        os.close(fcntl.ioctl(descriptor, 0xAE01, 0))
        os.close(descriptor)
    except OSError as error:
        return {"works": False, "trouble": f"/dev/kvm refuses: {error.strerror}"}
    return {"works": True}


def _time() -> dict[str, bool]:
    if os.path.exists("/run/systemd/timesync/synchronized"):
        return {"is_time_synchronized": True}
    return {}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="capture this host's files for tests")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("capture").add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        arguments.out.write_text(dump(_Capture().all()), encoding="utf-8")
    except OSError as error:
        print(f"trees: cannot write {arguments.out}: {error.strerror}; choose another file", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
