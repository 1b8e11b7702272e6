# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Do CPUs, memory and accelerators lie near each other?"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    accelerators,
    each,
    gib,
    join,
    sysctl,
    wants_passthrough,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice

_FAR = 40  # distances are in tenths of the local one; two sockets usually see 20 to 32


@check(
    "numa-known",
    "numa",
    "The firmware says which NUMA node an accelerator is on",
    why="Without it a guest's CPUs and memory are placed by chance, perhaps on the other socket.",
    reference="ACPI specification, _PXM; Linux: ABI sysfs-bus-pci, numa_node",
)
def numa_known(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN on a host with several nodes for a device without one."""
    found = accelerators(host, policy)
    if len(host.numa.nodes) < 2:
        yield Outcome(PASS, "one NUMA node") if host.numa.nodes else unknown("the NUMA nodes")
        return

    def judge(device: PciDevice) -> Outcome:
        if device.numa_node in host.numa.nodes:
            return Outcome(PASS, f"node {device.numa_node}")
        return Outcome(
            WARN,
            "on no known node",
            "update the firmware; meanwhile: echo NODE > /sys/bus/pci/devices/BDF/numa_node for each of {subjects}",
        )

    yield from each(found, map(judge, found))


@check(
    "numa-accelerators",
    "numa",
    "Accelerators are spread over the nodes that have CPUs",
    why="A node with all accelerators must serve them with half the host's CPUs and memory.",
    reference="docs/precheck.md",
)
def numa_accelerators(host: Host, policy: Policy) -> Outcome:
    """INFO when the spread is uneven: it is how the machine is built."""
    nodes = [number for number, node in host.numa.nodes.items() if node.cpus]
    found = [device.numa_node for device in accelerators(host, policy) if device.numa_node in nodes]
    if len(nodes) < 2 or not found:
        return Outcome(SKIP, "one NUMA node, or no accelerator on a known one")
    counts = {node: found.count(node) for node in sorted(nodes)}
    evidence = join(f"node {node}: {count}" for node, count in counts.items())
    return Outcome(PASS if max(counts.values()) - min(counts.values()) <= 1 else INFO, evidence)


@check(
    "numa-memory",
    "numa",
    "Every NUMA node with CPUs has its share of memory",
    why="Unequal or missing modules leave a socket on far memory, and a runtime bound to that node does not fit.",
    reference="Linux: Documentation/admin-guide/mm/numaperf.rst",
)
def numa_memory(host: Host, _policy: Policy) -> Outcome:
    """WARN when a node with CPUs has less than half of the largest one's memory."""
    nodes = {number: node for number, node in sorted(host.numa.nodes.items()) if node.cpus}
    if not nodes or any(node.memory_bytes is None for node in nodes.values()):
        return unknown("the NUMA nodes' memory")
    sizes = {number: node.memory_bytes or 0 for number, node in nodes.items()}
    evidence = join(f"node {number} {gib(size)}" for number, size in sizes.items())
    if 2 * min(sizes.values()) >= max(sizes.values()):
        return Outcome(PASS, evidence)
    return Outcome(
        WARN, evidence, "dmidecode --type memory shows which slots are empty or failed; populate all sockets alike"
    )


@check(
    "numa-balancing",
    "numa",
    "The kernel does not move guests' pages about",
    why="Automatic balancing takes page faults to learn who uses what. Memory that VFIO has locked cannot move, "
    "so the faults are for nothing.",
    reference="Linux: Documentation/admin-guide/sysctl/kernel.rst, numa_balancing",
)
def numa_balancing(host: Host, policy: Policy) -> Outcome:
    """WARN when it is on where devices are passed through on several nodes."""
    found = host.numa.balancing
    if found is None:
        return unknown("/proc/sys/kernel/numa_balancing")
    if not found or len(host.numa.nodes) < 2:
        return Outcome(PASS, "off" if not found else "on, and there is one node")
    status = WARN if wants_passthrough(host, policy) else INFO
    return Outcome(status, f"on, with {len(host.numa.nodes)} nodes", sysctl("kernel.numa_balancing=0"))


@check(
    "numa-distance",
    "numa",
    "NUMA nodes are near enough to each other",
    why="Distances beyond 40 are glued machines or wrong tables: a runtime that spans such nodes waits for memory.",
    reference="ACPI specification, SLIT",
)
def numa_distance(host: Host, _policy: Policy) -> Outcome:
    """INFO for distances beyond 40, SKIP on one node."""
    if len(host.numa.nodes) < 2:
        return Outcome(SKIP, "one NUMA node, or their number is unknown")
    distances = [value for node in host.numa.nodes.values() if node.cpus for value in node.distances]
    if not distances:
        return unknown("the NUMA nodes' distances")
    return Outcome(PASS if max(distances) <= _FAR else INFO, f"at most {max(distances)}, a node itself is 10")
