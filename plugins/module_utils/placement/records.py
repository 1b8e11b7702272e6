# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Placements as the plan's file has them, and back: from numbers in a file to cores, nodes and units of a host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .data import DataError, integer, items, mapping, text, texts, whole_numbers
from .demand import Wish
from .fleet import Fleet, Placed
from .state import Core, Grant, State

SCHEMA_VERSION = 1
LEAVING = "leaving"


@dataclass(frozen=True)
class Record:
    """A placement of an earlier plan, checked as far as a later plan builds on it; ``data`` is the whole of it.

    ``leaving`` is said apart of it: nobody wants the replica any more, and its host could not be read then.
    """

    runtime: str
    replica: int
    host: str
    cpus: tuple[int, ...]
    cpu_count: int
    memory: tuple[tuple[int, int], ...]
    hugepage_kib: int
    groups: tuple[int, ...]
    devices: tuple[str, ...]
    demand: Mapping[str, Any]
    data: Mapping[str, Any]
    leaving: bool = False
    vmm: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """Return which replica it is."""
        return self.runtime, self.replica


def instance(runtime: str, replica: int) -> str:
    """Return a replica's name; a runtime's name has no dot, so two runtimes' replicas never share one."""
    return runtime if replica == 0 else f"{runtime}.{replica}"


def records_of(plan: Any) -> list[Record]:
    """Return the placements of an earlier plan (None: there was none). Raises DataError, one line."""
    if plan is None:
        return []
    given = mapping(plan, "plan")
    version = given.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(f"plan: schema_version is {version!r}, expected {SCHEMA_VERSION}; use this collection's plan")
    records: dict[tuple[str, int], Record] = {}
    for each in items(given, "placements", "plan"):
        record = _record(each)
        if record.key in records:
            raise DataError(f"plan: {instance(*record.key)} is placed twice; the file was changed by hand")
        records[record.key] = record
    return [records[key] for key in sorted(records)]


def _record(data: Mapping[str, Any]) -> Record:
    runtime, replica = text(data, "runtime", "plan"), integer(data, "replica", "plan")
    where = f"plan, placement {instance(runtime, replica)}"
    return Record(
        runtime=runtime,
        replica=replica,
        host=text(data, "host", where),
        cpus=whole_numbers(data.get("cpus"), f"{where}, cpus"),
        cpu_count=integer(data, "cpu_count", where),
        memory=tuple(
            (integer(each, "node", where), integer(each, "mib", where)) for each in items(data, "memory", where)
        ),
        hugepage_kib=integer(data, "hugepage_kib", where),
        groups=whole_numbers(data.get("groups"), f"{where}, groups"),
        devices=texts(data, "devices", where),
        demand=mapping(data.get("demand"), f"{where}, demand"),
        data={key: value for key, value in data.items() if key != LEAVING},
        leaving=data.get(LEAVING) is True,
        vmm=tuple(
            (integer(each, "node", where), integer(each, "mib", where)) for each in items(data, "vmm_memory", where)
        )
        if "vmm_memory" in data
        else (),
    )


def grant_of(record: Record, state: State) -> Grant | str:
    """Return the record in the host's parts; or what the host no longer has, as the end of "the host ..."."""
    missing = set(record.cpus) - state.core_of.keys()
    if missing:
        return f"has no CPU {min(missing)} to give any more"
    found = sorted({state.core_of[cpu] for cpu in record.cpus})
    if sum(len(core) for _position, core in found) != len(set(record.cpus)):
        return "has its CPUs numbered otherwise now"
    cores: dict[int, list[Core]] = {}
    for position, core in found:
        cores.setdefault(position, []).append(core)
    numbers = state.shape.nodes
    for node_number, _size in (*record.memory, *record.vmm):
        if node_number not in numbers:
            return f"has no NUMA node {node_number} any more"
    if record.hugepage_kib != state.capacity.hugepage_kib:
        return f"gives pages of {state.capacity.hugepage_kib} KiB now, not {record.hugepage_kib} KiB"
    # By address: the kernel may number the groups otherwise at its next boot.
    lost = set(record.devices) - state.unit_of.keys()
    if lost:
        return f"has no device {min(lost)} to give any more"
    units = tuple(sorted({state.unit_of[bdf] for bdf in record.devices}))
    more = {bdf for unit in units for bdf in state.capacity.units[unit].devices} - set(record.devices)
    if more:
        return f"has {min(more)} in the same IOMMU group now"
    return Grant(
        cpu_count=record.cpu_count,
        cores=tuple((position, tuple(mine)) for position, mine in cores.items()),
        memory=tuple(sorted((numbers.index(number), size) for number, size in record.memory)),
        units=units,
        vmm=tuple(sorted((numbers.index(number), size) for number, size in record.vmm)),
    )


def placement_of(fleet: Fleet, placed: Placed) -> dict[str, Any]:
    """Return a placement as the plan's file has it."""
    state, grant = fleet.states[placed.host], placed.grant
    units = [state.capacity.units[unit] for unit in grant.units]
    return {
        "id": instance(*placed.key),
        "runtime": placed.wish.name,
        "replica": placed.replica,
        "host": state.capacity.host,
        "cpu_count": grant.cpu_count,
        "cpus": grant.cpus,
        "memory_mib": grant.memory_mib,
        "hugepage_kib": state.capacity.hugepage_kib,
        "memory": [{"node": state.shape.nodes[node], "mib": size} for node, size in grant.memory],
        **(
            {"vmm_memory": [{"node": state.shape.nodes[node], "mib": size} for node, size in grant.vmm]}
            if grant.vmm
            else {}
        ),
        "groups": sorted(group for unit in units for group in unit.groups),
        "devices": sorted(bdf for unit in units for bdf in unit.devices),
        "accelerators": [
            {"bdf": each.bdf, "type": each.type, "memory_mib": each.memory_mib, "node": unit.node}
            for unit in units
            for each in unit.accelerators
        ],
        "demand": placed.wish.demand.recorded,
    }


def changed(record: Record, wish: Wish) -> str | None:
    """Return what the manifest asks for otherwise than when this was placed; None when nothing."""
    names = {"cpu": "cpu", "memory_mib": "memory", "accelerator_count": "accelerator_count"}
    for key, value in wish.demand.recorded.items():
        old = record.demand.get(key)
        if old != value:
            unit = " MiB" if key.endswith("_mib") else ""
            return f"spec.resources.{names.get(key, key.removesuffix('_mib'))} is {value}{unit}, was {old}{unit}"
    missing = set(wish.demand.devices) - set(record.devices)
    if missing:
        return f"spec.placement.devices names {min(missing)}"
    node = wish.demand.numa_node
    if node is not None and any(number != node for number, _size in record.memory):
        return f"spec.placement.numa_node is {node}"
    if wish.hosts and record.host not in wish.hosts:
        return f"{record.host} is not among its spec.placement.hosts"
    return None
