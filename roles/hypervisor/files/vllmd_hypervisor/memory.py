"""VLLMD_HYPERVISOR_MEMORY_CONFIG: Cloud Hypervisor's `--memory` syntax, checked and kept as bytes and switches.

Keys are those of Cloud Hypervisor's MemoryConfig (API description v53); memory zones are not offered.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.quantity import KIB, MIB, format_size, parse_pairs, parse_size, parse_switch

PAGE_SIZE = 4 * KIB
SMALLEST_GUEST = 16 * MIB
LARGEST_GUEST = 1 << 52  # x86-64's physical address width, in bytes
HOTPLUG_METHODS = {"acpi": "Acpi", "virtio-mem": "VirtioMem"}


@dataclass(frozen=True)
class Memory:
    """Guest memory. Sizes are bytes; a size of 0 means "not asked for"."""

    size: int
    shared: bool = False
    mergeable: bool = False
    hugepages: bool = False
    hugepage_size: int = 0
    hotplug_method: str = "acpi"
    hotplug_size: int = 0
    hotplugged_size: int = 0
    prefault: bool = False
    reserve: bool = False
    thp: bool = True


def parse_memory(text: str) -> Memory:
    """Read `size=16G,shared=on,...`; ValueProblem names the key that is wrong and what is allowed."""
    known = {field.name: field.type for field in fields(Memory)}
    values: dict[str, Any] = {}
    for key, value in parse_pairs(text):
        if key not in known:
            raise ValueProblem(f"unknown memory key {key!r}{_nearest(key, known)}; known are {', '.join(known)}")
        if key in values:
            raise ValueProblem(f"{key} is given twice")
        values[key] = _parse_value(key, value)
    if "size" not in values:
        raise ValueProblem("has no size; write for example size=16G")
    memory = Memory(**values)
    _check(memory)
    return memory


def _nearest(word: str, words: dict[str, Any]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - costs 5 ms, needed only on the way to an error

    match = get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""


def _parse_value(key: str, value: str) -> int | bool | str:
    try:
        if key in ("size", "hotplug_size", "hotplugged_size", "hugepage_size"):
            return parse_size(value)
        if key == "hotplug_method":
            if value not in HOTPLUG_METHODS:
                raise ValueProblem(f"{value!r} is not a method; allowed are {', '.join(HOTPLUG_METHODS)}")
            return value
        return parse_switch(value)
    except ValueProblem as problem:
        raise ValueProblem(f"{key}: {problem}") from None


def _check(memory: Memory) -> None:
    """Refuse combinations that no VMM can serve."""
    if memory.size < SMALLEST_GUEST:
        plain = f"; {memory.size} means bytes, write {memory.size}G for GiB" if 0 < memory.size < PAGE_SIZE else ""
        raise ValueProblem(f"size is {format_size(memory.size)}, a guest needs at least 16M{plain}")
    if memory.size + memory.hotplug_size > LARGEST_GUEST:
        raise ValueProblem("size is more than x86-64 can address (4096T)")
    page = memory.hugepage_size or PAGE_SIZE
    if page < PAGE_SIZE or page & (page - 1):
        raise ValueProblem("hugepage_size must be a power of two of at least 4K, for example 2M or 1G")
    if memory.hugepage_size and not memory.hugepages:
        raise ValueProblem("hugepage_size needs hugepages=on")
    for key, size in (("size", memory.size), ("hotplug_size", memory.hotplug_size)):
        if size % page:
            raise ValueProblem(f"{key} must be a multiple of the page size {format_size(page)}")
    if memory.hotplugged_size > memory.hotplug_size:
        raise ValueProblem("hotplugged_size is more than hotplug_size")
    if memory.mergeable and (memory.shared or memory.hugepages):
        raise ValueProblem("mergeable=on has no effect on shared or huge pages; take one of them away")


def cloud_hypervisor_memory(memory: Memory) -> dict[str, int | bool | str]:
    """Return the MemoryConfig object of Cloud Hypervisor's API; sizes not asked for are left out."""
    body: dict[str, int | bool | str] = {
        "size": memory.size,
        "shared": memory.shared,
        "mergeable": memory.mergeable,
        "hugepages": memory.hugepages,
        "prefault": memory.prefault,
        "reserve": memory.reserve,
        "thp": memory.thp,
        "hotplug_method": HOTPLUG_METHODS[memory.hotplug_method],
    }
    sizes = {key: getattr(memory, key) for key in ("hugepage_size", "hotplug_size", "hotplugged_size")}
    return body | {key: size for key, size in sizes.items() if size}


def qemu_problems(memory: Memory) -> list[str]:
    """Return what this memory asks for that the qemu backend cannot do, one sentence each."""
    problems = []
    if memory != replace(memory, hotplug_size=0, hotplugged_size=0, hotplug_method="acpi"):
        problems.append("the qemu backend has no memory hotplug; take the hotplug keys away or use cloud-hypervisor")
    if not memory.thp:
        problems.append("the qemu backend cannot turn transparent huge pages off; take thp=off away")
    return problems


def qemu_memory(memory: Memory) -> list[str]:
    """Return QEMU's arguments for the guest's memory; the machine refers to the object `ram0`."""
    properties = [
        "memory-backend-memfd",
        "id=ram0",
        f"size={memory.size}",
        f"share={_switch(memory.shared)}",
        f"merge={_switch(memory.mergeable)}",
        f"prealloc={_switch(memory.prefault)}",
    ]
    if memory.hugepages:
        properties.append("hugetlb=on")
        if memory.hugepage_size:
            properties.append(f"hugetlbsize={memory.hugepage_size}")
    if memory.reserve:
        properties.append("reserve=on")
    return ["-m", f"size={memory.size // KIB}K", "-object", ",".join(properties)]


def _switch(value: bool) -> str:
    return "on" if value else "off"
