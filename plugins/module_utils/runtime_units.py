# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A placement as settings of the runtime's unit: its virtual machine's CPUs, and the nodes that give it memory."""

from __future__ import annotations

from collections.abc import Iterable


class PlacementError(ValueError):
    """The placement is not possible; the message is one line."""


def ranges(numbers: Iterable[int]) -> str:
    """Return CPU or node numbers as systemd and the kernel write them: ``0-3,8``. Raises PlacementError."""
    numbers = list(numbers)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise PlacementError(f"{number!r} is no number of a CPU or NUMA node, 0 or more")
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def placement_drop_in(cpus: Iterable[int], numa_nodes: Iterable[int]) -> str:
    """Return the drop-in of unit ``vllmd-hypervisor@NAME.service``; empty when the placement says nothing.

    ``AllowedCPUs=`` and ``AllowedMemoryNodes=`` bind the unit's control group (systemd.resource-control(5)), so also
    the VMM's threads in the kernel; ``CPUAffinity=`` (systemd.exec(5)) is the same for the VMM where systemd has no
    cpuset controller to bind with; ``NUMAPolicy=`` is what the guest's memory follows. Raises PlacementError.
    """
    cpu_list, node_list = ranges(cpus), ranges(numa_nodes)
    lines = []
    if cpu_list:
        lines += [f"AllowedCPUs={cpu_list}", f"CPUAffinity={cpu_list}"]
    if node_list:
        lines += [f"AllowedMemoryNodes={node_list}", "NUMAPolicy=bind", f"NUMAMask={node_list}"]
    if not lines:
        return ""
    head = (
        "# Written by role vllmd.platform.hypervisor; changes are overwritten.\n# Where the plan placed this runtime.\n"
    )
    return head + "[Service]\n" + "\n".join(lines) + "\n"
