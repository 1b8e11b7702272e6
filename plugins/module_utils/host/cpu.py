# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Processors: vendor, virtualization flags, topology, isolation, side-channel vulnerabilities."""

from __future__ import annotations

import re

from .model import Cpu, CpuCore
from .tree import Tree, parse_cpu_list, parse_integer

_CPUS = "sys/devices/system/cpu"
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "hygon"}
# Arm's Main ID Register: the implementer's code.
_IMPLEMENTERS = {0x41: "arm", 0x4E: "nvidia", 0xC0: "ampere", 0x46: "fujitsu", 0x48: "hisilicon", 0x51: "qualcomm"}
_ADDRESS_BITS = re.compile(r"([0-9]+) bits physical")
# The first processor's paragraph stands whole in this many bytes; all of a large host's would take milliseconds.
_FIRST_PARAGRAPH = 8192


def read_cpu(tree: Tree) -> Cpu:
    """Return the processors; flags are those of the first, as the kernel boots only on equal ones."""
    first = _cpuinfo(tree)
    flags = tuple(sorted({*first.get("flags", "").split(), *first.get("Features", "").split()}))
    vendor, model = _vendor(first)
    bits = _ADDRESS_BITS.search(first.get("address sizes", ""))
    online = tree.cpus(f"{_CPUS}/online")
    governors = {tree.word(f"{_CPUS}/cpufreq/{name}/scaling_governor") for name in tree.names(f"{_CPUS}/cpufreq")}
    return Cpu(
        vendor=vendor,
        model=model,
        family=parse_integer(first.get("cpu family", "")),
        model_number=parse_integer(first.get("model", "")),
        stepping=parse_integer(first.get("stepping", "")),
        microcode=first.get("microcode"),
        flags=flags,
        virtualization_flag=_virtualization(flags) if first else None,
        under_hypervisor="hypervisor" in flags if "flags" in first else None,
        physical_address_bits=int(bits[1]) if bits else None,
        present=tree.cpus(f"{_CPUS}/present"),
        online=online,
        isolated=tree.cpus(f"{_CPUS}/isolated"),
        nohz_full=_optional_cpus(tree, f"{_CPUS}/nohz_full"),
        cores=_cores(tree, online),
        smt=tree.word(f"{_CPUS}/smt/control"),
        governors=tuple(sorted(each for each in governors if each)),
        vulnerabilities={
            name: tree.text(f"{_CPUS}/vulnerabilities/{name}") or "" for name in tree.names(f"{_CPUS}/vulnerabilities")
        },
    )


def _cpuinfo(tree: Tree) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in tree.lines("proc/cpuinfo", _FIRST_PARAGRAPH):
        key, colon, value = line.partition(":")
        if not colon:
            if values and not line.strip():
                break
            continue
        values.setdefault(key.strip(), value.strip())
    return values


def _vendor(first: dict[str, str]) -> tuple[str | None, str | None]:
    """Return vendor and model; arm64 has numbers only, which stand in the model's name."""
    if "vendor_id" in first:
        return _VENDORS.get(first["vendor_id"], first["vendor_id"]), first.get("model name")
    implementer = parse_integer(first.get("CPU implementer", ""), 16)
    if implementer is None:
        return None, first.get("model name")
    part = first.get("CPU part", "?")
    return _IMPLEMENTERS.get(implementer, f"{implementer:#04x}"), f"implementer {implementer:#04x} part {part}"


def _virtualization(flags: tuple[str, ...]) -> str:
    return next((flag for flag in ("vmx", "svm") if flag in flags), "")


def _optional_cpus(tree: Tree, path: str) -> tuple[int, ...]:
    """Return a CPU list from a file that says ``(null)`` when the feature is off."""
    return parse_cpu_list(tree.text(path) or "") or ()


def _cores(tree: Tree, online: tuple[int, ...]) -> tuple[CpuCore, ...]:
    """Return the cores: one thread of each is asked for all of them."""
    cores = []
    seen: set[int] = set()
    for cpu in online:
        if cpu in seen:
            continue
        base = f"{_CPUS}/cpu{cpu}/topology"
        siblings = tree.cpus(f"{base}/thread_siblings_list") or (cpu,)
        socket = tree.integer(f"{base}/physical_package_id")
        seen.update(siblings)
        cores.append(CpuCore(socket if socket is not None and socket >= 0 else None, siblings))
    return tuple(cores)
