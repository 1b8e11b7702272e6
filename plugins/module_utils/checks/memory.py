# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is there memory for guests, in pages that map fast, and may it be locked?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    GIB,
    accelerators,
    gib,
    join,
    sysctl,
    wants_passthrough,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, HugepagePool

_KIB = 1024
_MIN_MAP_COUNT = 65530  # the kernel's own default
_USABLE = 0.9  # of the installed memory, the kernel shows at least this much


def _pools(host: Host, policy: Policy) -> list[HugepagePool]:
    """Return the host-wide pools of the size that the policy asks for."""
    wanted = policy.hugepage_size_kib * _KIB
    return [
        pool
        for pool in host.memory.hugepages
        if pool.node is None and pool.size_bytes > 0 and wanted in (0, pool.size_bytes)
    ]


def _reserve(size_bytes: int, count: int) -> str:
    pool = f"/sys/kernel/mm/hugepages/hugepages-{size_bytes // _KIB}kB/nr_hugepages"
    return (
        f"echo {count} > {pool}; at each boot: hugepagesz={size_bytes // _KIB}K hugepages={count} on the kernel "
        "command line"
    )


@check(
    "memory-size",
    "memory",
    "There is enough memory",
    why="A guest's memory is taken whole at start when devices are passed through: nothing of it can be swapped "
    "or shared.",
    reference="policy key minimum_memory_gib",
)
def memory_size(host: Host, policy: Policy) -> Outcome:
    """Compare the host's memory with minimum_memory_gib, less what firmware and kernel keep."""
    total = host.memory.total_bytes
    if total is None:
        return unknown("/proc/meminfo")
    evidence = f"{gib(total)}, wanted at least {policy.minimum_memory_gib} GiB"
    if total >= policy.minimum_memory_gib * GIB * _USABLE:
        return Outcome(PASS, evidence)
    return Outcome(FAIL, evidence, "add memory, or lower minimum_memory_gib and the runtimes' memory")


@check(
    "hugepages-reserved",
    "memory",
    "Hugepages are set aside for guests",
    why="With 4 KiB pages VFIO maps a guest's memory page by page: a start that takes two minutes with 1 GiB "
    "pages takes over five.",
    reference="Linux: Documentation/admin-guide/mm/hugetlbpage.rst",
)
def hugepages_reserved(host: Host, policy: Policy) -> Outcome:
    """FAIL below hugepages_gib; WARN when passthrough goes without any."""
    pools = _pools(host, policy)
    if not pools or any(pool.total is None for pool in pools):
        if host.memory.total_bytes is None or not policy.hugepage_size_kib:
            return unknown("/sys/kernel/mm/hugepages")
        return Outcome(
            FAIL,
            f"this kernel has no hugepages of {policy.hugepage_size_kib} KiB",
            "set hugepage_size_kib to a size below /sys/kernel/mm/hugepages",
        )
    have = sum((pool.total or 0) * pool.size_bytes for pool in pools)
    listed = join(f"{pool.total} of {gib(pool.size_bytes)}" for pool in pools if pool.total) or "none"
    largest = max(pools, key=lambda pool: pool.size_bytes).size_bytes
    if policy.hugepages_gib:
        evidence = f"{listed}: {gib(have)}, wanted at least {policy.hugepages_gib} GiB"
        if have >= policy.hugepages_gib * GIB:
            return Outcome(PASS, evidence)
        return Outcome(FAIL, evidence, _reserve(largest, -(-policy.hugepages_gib * GIB // largest)))
    if have or not wants_passthrough(host, policy):
        return Outcome(PASS if have else INFO, f"{listed}; the policy requires none")
    half = (host.memory.total_bytes or 0) // 2
    # Pages of 1 GiB are of use only where many of them fit.
    largest = max((pool.size_bytes for pool in pools if pool.size_bytes <= half // 8), default=largest)
    return Outcome(
        WARN, "none are set aside, and devices are passed through", _reserve(largest, max(half // largest, 1))
    )


@check(
    "hugepages-free",
    "memory",
    "Hugepages that are set aside are free",
    why="Pages in use belong to guests that run; leaked ones (a file in a hugetlbfs mount) keep the next guest "
    "from starting.",
    reference="Linux: Documentation/admin-guide/mm/hugetlbpage.rst, free_hugepages",
)
def hugepages_free(host: Host, policy: Policy) -> Outcome:
    """INFO with what is in use, WARN when nothing is free."""
    pools = [pool for pool in _pools(host, policy) if pool.total]
    if not pools:
        return Outcome(SKIP, "no hugepages are set aside")
    if any(pool.free is None for pool in pools):
        return unknown("free_hugepages")
    free = sum((pool.free or 0) * pool.size_bytes for pool in pools)
    total = sum((pool.total or 0) * pool.size_bytes for pool in pools)
    evidence = f"{gib(free)} of {gib(total)} free"
    if free == total:
        return Outcome(PASS, evidence)
    if free:
        return Outcome(INFO, evidence)
    return Outcome(
        WARN,
        evidence,
        "grep -l huge /proc/[0-9]*/numa_maps shows who uses them; ls /dev/hugepages shows files left over",
    )


@check(
    "hugepages-balance",
    "memory",
    "Hugepages lie on the NUMA nodes that accelerators are on",
    why="Reserved by one number, pages may all come from one node; guests on the other get far memory, or none.",
    reference="Linux: Documentation/admin-guide/mm/hugetlbpage.rst, per node attributes",
)
def hugepages_balance(host: Host, policy: Policy) -> Outcome:
    """WARN when a node with accelerators has less than half of what the best one has."""
    if len(host.numa.nodes) < 2:
        return Outcome(SKIP, "one NUMA node, or their number is unknown")
    wanted = policy.hugepage_size_kib * _KIB
    pools = [
        pool
        for pool in host.memory.hugepages
        if pool.node is not None and pool.size_bytes > 0 and wanted in (0, pool.size_bytes)
    ]
    if any(pool.total is None for pool in pools) or not pools:
        return unknown("/sys/devices/system/node/node*/hugepages")
    by_node = {
        node: sum((pool.total or 0) * pool.size_bytes for pool in pools if pool.node == node)
        for node in host.numa.nodes
    }
    if not any(by_node.values()):
        return Outcome(SKIP, "no hugepages are set aside")
    used = {device.numa_node for device in accelerators(host, policy)} & set(by_node) or set(by_node)
    evidence = join(f"node {node} {gib(size)}" for node, size in sorted(by_node.items()))
    if 2 * min(by_node[node] for node in used if node is not None) >= max(by_node.values()):
        return Outcome(PASS, evidence)
    size = max((pool for pool in pools if pool.total), key=lambda pool: pool.size_bytes).size_bytes
    each = sum(by_node.values()) // size // len(by_node)
    node_files = f"/sys/devices/system/node/node*/hugepages/hugepages-{size // _KIB}kB/nr_hugepages"
    return Outcome(WARN, evidence, f"for f in {node_files}; do echo {each} > $f; done")


@check(
    "transparent-hugepages",
    "memory",
    "Transparent hugepages are available to those who ask",
    why="Without hugepages of its own, a guest's memory becomes large pages only by madvise; 'never' keeps all "
    "of it at 4 KiB.",
    reference="Linux: Documentation/admin-guide/mm/transhuge.rst",
)
def transparent_hugepages(host: Host, _policy: Policy) -> Outcome:
    """WARN for never."""
    found = host.memory.transparent_hugepages
    if found is None:
        return unknown("/sys/kernel/mm/transparent_hugepage/enabled")
    if found != "never":
        return Outcome(PASS, found)
    return Outcome(
        WARN,
        found,
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; at each boot: "
        "transparent_hugepage=madvise on the kernel command line",
    )


@check(
    "memory-lock",
    "memory",
    "Memory of guests may be locked",
    why="VFIO locks all of a guest's memory; with the usual limit of 8 MiB the start fails with ENOMEM. Units of "
    "the role lift it, "
    "a session or another unit does not.",
    reference="Linux: drivers/vfio/vfio_iommu_type1.c, RLIMIT_MEMLOCK; systemd.exec(5), LimitMEMLOCK",
)
def memory_lock(host: Host, policy: Policy) -> Outcome:
    """PASS when the hard limit covers the host's memory; INFO where only units lift it."""
    hard, total = host.limits.memlock_hard_bytes, host.memory.total_bytes
    if hard is None or total is None:
        return unknown("the limit of locked memory")
    limit = "unlimited" if hard < 0 else gib(hard)
    lifted = (host.limits.systemd_memlock or "").lower() in ("infinity", "infinity:infinity")
    configured = any(item.value.lower() in ("unlimited", "-1", "infinity") for item in host.limits.configured)
    if hard < 0 or hard >= total or lifted or configured:
        return Outcome(PASS, f"hard limit {limit}{', lifted by configuration' if lifted or configured else ''}")
    if host.system.init == "systemd":
        return Outcome(INFO, f"hard limit {limit} outside of units; vllmd-hypervisor@.service lifts its own")
    remedy = f"echo '{policy.runtime_user} - memlock unlimited' > /etc/security/limits.d/vllmd.conf, then log in again"
    status = WARN if wants_passthrough(host, policy) else INFO
    return Outcome(status, f"hard limit {limit}, and no systemd that lifts it for a unit", remedy)


@check(
    "swap",
    "memory",
    "The host does not live from swap",
    why="A host that swaps stalls every guest's virtual devices, and a guest's secrets may end on a disk.",
    reference="Linux: Documentation/admin-guide/sysctl/vm.rst, swappiness",
)
def swap(host: Host, _policy: Policy) -> Outcome:
    """WARN when more than a tenth of swap is used, INFO when there is some."""
    total, free = host.memory.swap_total_bytes, host.memory.swap_free_bytes
    if total is None or free is None:
        return unknown("/proc/meminfo")
    if not total:
        return Outcome(PASS, "no swap")
    used = total - free
    evidence = f"{gib(used)} of {gib(total)} used, swappiness {host.memory.swappiness}"
    if used * 10 <= total:
        return Outcome(INFO, evidence)
    return Outcome(WARN, evidence, "swapoff -a and remove the swap line of /etc/fstab, or add memory")


@check(
    "memory-merging",
    "memory",
    "Equal pages of different guests are not merged (KSM)",
    why="Merged pages let one tenant see, by the time a write takes, what another one's memory holds.",
    reference="Linux: Documentation/admin-guide/mm/ksm.rst",
)
def memory_merging(host: Host, _policy: Policy) -> Outcome:
    """RISK when KSM runs."""
    if host.memory.is_ksm_running is None:
        return unknown("/sys/kernel/mm/ksm/run")
    if not host.memory.is_ksm_running:
        return Outcome(PASS, "KSM is off")
    return Outcome(RISK, "KSM runs", "echo 2 > /sys/kernel/mm/ksm/run && systemctl disable --now ksm ksmtuned")


@check(
    "overcommit",
    "memory",
    "Overcommit does not refuse large guests",
    why="With vm.overcommit_memory=2 the kernel counts every reservation: a guest's memory and a GPU's mappings "
    "are refused early.",
    reference="Linux: Documentation/mm/overcommit-accounting.rst",
)
def overcommit(host: Host, _policy: Policy) -> Outcome:
    """WARN for mode 2."""
    found = host.memory.overcommit
    if found is None:
        return unknown("/proc/sys/vm/overcommit_memory")
    if found != 2:
        return Outcome(PASS, f"vm.overcommit_memory={found}")
    return Outcome(WARN, "vm.overcommit_memory=2", sysctl("vm.overcommit_memory=0"))


@check(
    "map-count",
    "memory",
    "Processes may have as many mappings as they need",
    why="A virtual machine monitor with many BARs and a vLLM process with many shards map more regions than a "
    "lowered limit allows.",
    reference="Linux: Documentation/admin-guide/sysctl/vm.rst, max_map_count",
)
def map_count(host: Host, _policy: Policy) -> Outcome:
    """WARN below the kernel's default."""
    found = host.limits.max_map_count
    if found is None:
        return unknown("/proc/sys/vm/max_map_count")
    if found >= _MIN_MAP_COUNT:
        return Outcome(PASS, f"vm.max_map_count={found}")
    return Outcome(WARN, f"vm.max_map_count={found}", sysctl(f"vm.max_map_count={_MIN_MAP_COUNT}"))
