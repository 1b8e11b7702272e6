"""Find out what this machine has, from /sys and /proc alone: no driver has to be loaded, no program is run.

What a file says wrongly or not at all is left out: a machine is described as far as it describes itself.
"""
# Read at boot on an emulated CPU, where pathlib costs more than all of this:
# ruff: noqa: PTH118, PTH123, PTH208

from __future__ import annotations

import os
from dataclasses import dataclass, field

NVIDIA = "10de"
# PCI base class 03, display controller, subclasses VGA and 3D (PCI Code and ID Assignment Specification, 1.4).
_GPU_CLASSES = ("0x0300", "0x0302")
_MEMORY_FLAG = 0x200  # IORESOURCE_MEM, include/linux/ioport.h
_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class Gpu:
    """One graphics processor: PCI ``address``, ``pci_id`` (``10de:2330``), NUMA node (-1: not said), largest BAR."""

    address: str
    pci_id: str
    numa_node: int
    bar_bytes: int


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node and the CPUs and bytes of memory in it."""

    number: int
    cpus: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Hardware:
    """What the machine has. ``memory_available_bytes`` is the kernel's estimate of what can still be had."""

    gpus: tuple[Gpu, ...] = ()
    cpus: int = 1
    fast_bfloat16: bool = False
    memory_bytes: int = 0
    memory_available_bytes: int = 0
    numa: tuple[NumaNode, ...] = field(default=())
    driver: str = ""

    @property
    def summary(self) -> str:
        """One phrase for people: ``2 CPUs, 4.8 GiB, 1 GPU (10de:2236)``."""
        kinds = ", ".join(sorted({gpu.pci_id for gpu in self.gpus}))
        gpus = f"{len(self.gpus)} GPU{'s' * (len(self.gpus) > 1)} ({kinds})" if self.gpus else "no GPU"
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}, {self.memory_bytes / 1024**3:.1f} GiB, {gpus}"


def detect(root: str = "/") -> Hardware:
    """Return the hardware of the machine whose /sys and /proc are below ``root``."""
    memory = _table(_read(root, "proc/meminfo"))
    cpuinfo = _read(root, "proc/cpuinfo")
    numa = _numa_nodes(root)
    online = _cpu_list(_read(root, "sys/devices/system/cpu/online"))
    return Hardware(
        gpus=_gpus(root),
        cpus=len(online) or max(1, sum(line.startswith("processor") for line in cpuinfo.splitlines())),
        fast_bfloat16=not _FAST_BFLOAT16.isdisjoint(_flags(cpuinfo)),
        memory_bytes=memory.get("MemTotal", 0),
        memory_available_bytes=memory.get("MemAvailable", 0),
        numa=numa,
        driver=_driver(root),
    )


def _gpus(root: str) -> tuple[Gpu, ...]:
    base = os.path.join(root, "sys/bus/pci/devices")
    found = []
    for address in _names(base):
        device = f"sys/bus/pci/devices/{address}"
        vendor = _identifier(_read(root, f"{device}/vendor"))
        if vendor != NVIDIA or not _read(root, f"{device}/class").startswith(_GPU_CLASSES):
            continue
        pci_id = f"{vendor}:{_identifier(_read(root, f'{device}/device'))}"
        node = _number(_read(root, f"{device}/numa_node"), -1)
        found.append(Gpu(address, pci_id, node, _largest_bar(_read(root, f"{device}/resource"))))
    return tuple(found)


def _largest_bar(table: str) -> int:
    """Return the size in bytes of the largest memory BAR in a device's ``resource`` file (start, end, flags)."""
    largest = 0
    for line in table.splitlines()[:6]:  # six BARs, then the ROM and bridges' windows
        try:
            start, end, flags = (int(part, 16) for part in line.split())
        except ValueError:
            continue
        if flags & _MEMORY_FLAG and end > start:
            largest = max(largest, end - start + 1)
    return largest


def _numa_nodes(root: str) -> tuple[NumaNode, ...]:
    base = "sys/devices/system/node"
    nodes = []
    for name in _names(os.path.join(root, base)):
        number = name.removeprefix("node")
        if number == name or not number.isdecimal():
            continue
        # Lines of a node's meminfo begin with "Node 0 ".
        text = "\n".join(
            line.partition(f"Node {number} ")[2] for line in _read(root, f"{base}/{name}/meminfo").split("\n")
        )
        cpus = tuple(_cpu_list(_read(root, f"{base}/{name}/cpulist")))
        nodes.append(NumaNode(int(number), cpus, _table(text).get("MemTotal", 0)))
    return tuple(sorted(nodes, key=lambda node: node.number))


def _driver(root: str) -> str:
    """Return the version of the loaded NVIDIA driver, such as ``550.163.01``, or nothing."""
    first = _read(root, "proc/driver/nvidia/version").partition("\n")[0]
    versions = [word for word in first.split() if word[:1].isdigit() and "." in word]
    return versions[0] if versions else ""


def _flags(cpuinfo: str) -> list[str]:
    for line in cpuinfo.splitlines():
        name, value = (*line.split(":", 1), "")[:2]
        if name.strip() in ("flags", "Features"):
            return value.split()
    return []


def _table(text: str) -> dict[str, int]:
    """Return the lines ``Name: 123 kB`` as bytes by name."""
    found = {}
    for line in text.splitlines():
        name, value = (*line.split(":", 1), "")[:2]
        parts = value.split()
        if parts and parts[0].isdecimal():
            found[name.strip()] = int(parts[0]) * (1024 if parts[1:] == ["kB"] else 1)
    return found


def _cpu_list(text: str) -> list[int]:
    """Return the numbers of a list like ``0-3,8`` (Documentation/admin-guide/cputopology.rst)."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, last = (*part.split("-", 1), "")[:2]
        if first.isdecimal() and (last or first).isdecimal() and int(last or first) - int(first) < 65536:
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _identifier(text: str) -> str:
    return text.strip().lower().removeprefix("0x")


def _number(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read(1024 * 1024)
    except OSError:
        return ""
