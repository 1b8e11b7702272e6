# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From a plan's placements to the replicas of one host: each a runtime of its own, with what it was given there.

Pure functions over what module ``runtime_manifest`` returns and ``schemas/plan-v1.schema.json`` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import guest_config

_KIB_OF_MIB = 1024


class ReplicaError(ValueError):
    """Plan and manifests do not belong together; the message is one line."""


def replicas_on(
    runtimes: Iterable[Mapping[str, Any]], placements: Iterable[Mapping[str, Any]], host: str
) -> list[dict[str, Any]]:
    """Return the replicas that the plan places on ``host``, by id, in the shape of ``runtimes``.

    A replica's name is its id; its CPUs, memory and devices are those of its placement; ``place`` has ``cpus`` and
    ``numa_nodes``. What is leaving is none of them. Raises ReplicaError when a placement's runtime has no manifest.
    """
    by_name = {runtime["metadata"]["name"]: runtime for runtime in runtimes}
    replicas = []
    for placement in sorted(placements, key=lambda each: str(each["id"])):
        if placement["host"] != host or placement.get("leaving"):
            continue
        if placement["runtime"] not in by_name:
            raise ReplicaError(
                f"the plan places {placement['id']} on {host}, but no manifest names {placement['runtime']}; plan again"
            )
        replicas.append(_replica(by_name[placement["runtime"]], placement))
    return replicas


def _replica(runtime: Mapping[str, Any], placement: Mapping[str, Any]) -> dict[str, Any]:
    name = str(placement["id"])
    spec = runtime["spec"]
    resources = {
        **spec["resources"],
        "cpu": placement["cpu_count"],
        "cpu_millis": placement["cpu_count"] * 1000,
        "memory": f"{placement['memory_mib']}Mi",
        "memory_mib": placement["memory_mib"],
        "memory_bytes": placement["memory_mib"] * _KIB_OF_MIB * _KIB_OF_MIB,
    }
    # By its groups and not by addresses, so that the unit may open these and no other.
    devices = [f"/dev/vfio/{group}" for group in sorted(placement["groups"])]
    replica = {
        **runtime,
        "replica_of": runtime["metadata"]["name"],
        "metadata": {**runtime["metadata"], "name": name},
        "spec": {**spec, "resources": resources, "placement": {**spec["placement"], "devices": devices}},
        "place": {
            "cpus": sorted(placement["cpus"]),
            "numa_nodes": sorted(each["node"] for each in placement["memory"]),
        },
    }
    replica["guest"] = {**runtime["guest"], "name": name, "hostname": name, "uid": guest_config.runtime_uid(name)}
    settings = guest_config.launcher_settings(replica)
    page_kib = placement["hugepage_kib"]
    if page_kib:
        settings["memory_config"] = f"{guest_config.launcher_memory(replica, hugepages=True)},hugepage_size={page_kib}K"
    replica["launcher"] = settings
    return replica
