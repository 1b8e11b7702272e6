# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where a runtime's pods may run: the nodes' labels, taints that they tolerate, and their distance to each other."""

from __future__ import annotations

from typing import Any

from .names import (
    ACCELERATOR_LABEL,
    ACCELERATOR_MEMORY_LABEL,
    ACCELERATOR_TAINT,
    HOSTNAME_LABEL,
    ZONE_LABEL,
    selector,
)
from .settings import Settings

#: Device plugins' resources, by how a type begins.
_RESOURCES = {"nvidia-": "nvidia.com/gpu", "amd-": "amd.com/gpu"}
DEFAULT_RESOURCE = "nvidia.com/gpu"


def resource_name(runtime: dict[str, Any], settings: Settings) -> str:
    """Return the extended resource that stands for the runtime's accelerators."""
    kind = runtime["spec"]["resources"]["accelerator_type"] or ""
    if kind in settings.accelerator_resources:
        return settings.accelerator_resources[kind]
    found = [resource for prefix, resource in _RESOURCES.items() if kind.startswith(prefix)]
    return found[0] if found else settings.accelerator_resources.get("default", DEFAULT_RESOURCE)


def placing(runtime: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the fields of a pod's spec that place it: nodeSelector, affinity, tolerations, topology spread."""
    spec = runtime["spec"]
    node_selector = {"kubernetes.io/os": "linux"}
    if spec["resources"]["accelerator_type"]:
        node_selector[ACCELERATOR_LABEL] = spec["resources"]["accelerator_type"]
    found: dict[str, Any] = {"nodeSelector": node_selector}
    affinity = _node_affinity(spec) | _anti_affinity(runtime)
    if affinity:
        found["affinity"] = affinity
    if spec["resources"]["accelerator_count"]:
        keys = sorted({ACCELERATOR_TAINT, resource_name(runtime, settings)})
        found["tolerations"] = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
    spread = _spread(runtime)
    if spread:
        found["topologySpreadConstraints"] = spread
    return found


def _node_affinity(spec: dict[str, Any]) -> dict[str, Any]:
    """Demand nodes by name, and nodes whose accelerators have the memory that is asked for."""
    terms: list[dict[str, Any]] = []
    if spec["placement"]["hosts"]:
        terms.append({"key": HOSTNAME_LABEL, "operator": "In", "values": sorted(spec["placement"]["hosts"])})
    needed_mib = spec["resources"]["accelerator_memory_mib"]
    if spec["resources"]["accelerator_count"] and needed_mib:
        # Gt is all there is for numbers; labels are whole MiB, so "more than one less" is "at least".
        terms.append({"key": ACCELERATOR_MEMORY_LABEL, "operator": "Gt", "values": [str(needed_mib - 1)]})
    if not terms:
        return {}
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _anti_affinity(runtime: dict[str, Any]) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": selector(runtime["metadata"]["name"])}, "topologyKey": HOSTNAME_LABEL}
    wanted = runtime["spec"]["placement"]["anti_affinity"]
    if wanted == "required":
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if wanted == "preferred":
        weighted = {"weight": 100, "podAffinityTerm": term}
        return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}
    return {}


def _spread(runtime: dict[str, Any]) -> list[dict[str, Any]]:
    """Spread replicas over zones unless they need not be apart, and evenly over nodes when spreading is asked for."""
    placement = runtime["spec"]["placement"]
    keys = [ZONE_LABEL] if placement["anti_affinity"] != "none" else []
    keys += [HOSTNAME_LABEL] if placement["strategy"] == "spread" else []
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(runtime["metadata"]["name"])},
        }
        for key in keys
    ]
