# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Memory, huge pages and NUMA nodes (Documentation/admin-guide/mm/hugetlbpage.rst, numaperf.rst)."""

from __future__ import annotations

import re

from .model import HugepagePool, Memory, Numa, NumaNode
from .storage import Mount
from .tree import Tree, parse_integer

_KIB = 1024
_POOL = re.compile(r"hugepages-([0-9]+)kB")
_NODE = re.compile(r"node([0-9]+)")
_NODES = "sys/devices/system/node"
_CHOSEN = re.compile(r"\[([a-z]+)\]")


def read_memory(tree: Tree, mounts: list[Mount]) -> Memory:
    """Return the host's memory and its pools of huge pages, those of all nodes and those of each."""
    info = _meminfo(tree, "proc/meminfo")
    pools = _pools(tree, "sys/kernel/mm/hugepages", None)
    for node in _node_numbers(tree):
        pools += _pools(tree, f"{_NODES}/node{node}/hugepages", node)
    ksm = tree.count("sys/kernel/mm/ksm/run")
    return Memory(
        total_bytes=info.get("MemTotal"),
        available_bytes=info.get("MemAvailable"),
        swap_total_bytes=info.get("SwapTotal"),
        swap_free_bytes=info.get("SwapFree"),
        hugepage_default_bytes=info.get("Hugepagesize"),
        hugepages=tuple(pools),
        hugetlbfs_mounts=_hugetlbfs(mounts),
        transparent_hugepages=chosen(tree.text("sys/kernel/mm/transparent_hugepage/enabled")),
        overcommit=tree.count("proc/sys/vm/overcommit_memory"),
        swappiness=tree.count("proc/sys/vm/swappiness"),
        is_ksm_running=None if ksm is None else ksm == 1,
    )


def read_numa(tree: Tree) -> Numa:
    """Return the NUMA nodes."""
    nodes = {}
    for number in _node_numbers(tree):
        base = f"{_NODES}/node{number}"
        info = _meminfo(tree, f"{base}/meminfo")
        distances = [parse_integer(word) for word in (tree.text(f"{base}/distance") or "").split()]
        nodes[number] = NumaNode(
            number,
            tree.cpus(f"{base}/cpulist"),
            info.get("MemTotal"),
            info.get("MemFree"),
            tuple(each for each in distances if each is not None),
        )
    balancing = tree.count("proc/sys/kernel/numa_balancing")
    return Numa(nodes, None if balancing is None else balancing > 0)


def chosen(text: str | None) -> str | None:
    """Return the word in brackets of ``always [madvise] never``."""
    match = _CHOSEN.search(text or "")
    return match[1] if match else None


def _node_numbers(tree: Tree) -> list[int]:
    matches = (_NODE.fullmatch(name) for name in tree.names(_NODES))
    return sorted(int(match[1]) for match in matches if match)


def _meminfo(tree: Tree, path: str) -> dict[str, int]:
    """Return the values of a meminfo file in bytes; a node's file has ``Node 0`` before each key."""
    values = {}
    for line in tree.lines(path):
        key, _colon, rest = line.partition(":")
        words = rest.split()
        number = parse_integer(words[0]) if words else None
        if number is not None and number >= 0:
            values[key.rpartition(" ")[2]] = number * (_KIB if words[-1] == "kB" else 1)
    return values


def _pools(tree: Tree, base: str, node: int | None) -> list[HugepagePool]:
    pools = []
    for name in tree.names(base):
        match = _POOL.fullmatch(name)
        if match:
            total, free, reserved, surplus = (
                tree.count(f"{base}/{name}/{each}_hugepages") for each in ("nr", "free", "resv", "surplus")
            )
            pools.append(HugepagePool(int(match[1]) * _KIB, node, total, free, reserved, surplus))
    return sorted(pools, key=lambda pool: pool.size_bytes)


def _hugetlbfs(mounts: list[Mount]) -> tuple[str, ...]:
    """Return ``TARGET OPTIONS`` of the mounted huge page file systems; the page size is among the options."""
    return tuple(f"{each.target} {each.options}" for each in mounts if each.filesystem == "hugetlbfs")
