# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Every default of a Runtime manifest, in this one place; ``docs/runtime.md`` says the same."""

from __future__ import annotations

from typing import Any

from . import quantities

#: The seed's launcher defaults, so that a manifest without these fields runs as the launcher alone would.
DEFAULT_CPU = 4
DEFAULT_MEMORY = "16Gi"
DEFAULT_API_PORT = 8000
#: As ``host_address`` of a forward: whichever the host has.
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 -- nothing is bound to it
#: Without a strategy the plan's own holds for the runtime.
_PLACEMENT: dict[str, Any] = {
    "target": "hypervisor",
    "hosts": [],
    "numa_node": None,
    "devices": [],
    "strategy": None,
    "anti_affinity": "preferred",
}


def with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest that holds to schema and rules as plain data of always the same shape.

    ``spec.engine`` comes in kebab-case, sizes also in bytes and MiB, CPUs whole and in thousandths. Sections that mean
    something by being there (``storage.cache``, ``kubernetes``) are None without being given.
    """
    spec = data["spec"]
    scaling = spec.get("scaling", {})
    highest = scaling.get("maxReplicas", max(1, scaling.get("minReplicas", 1)))
    return {
        "apiVersion": data["apiVersion"],
        "kind": data["kind"],
        "metadata": {"name": data["metadata"]["name"], "labels": dict(data["metadata"].get("labels", {}))},
        "spec": {
            "model": dict(spec["model"]),
            "target": spec.get("placement", {}).get("target", "hypervisor"),
            "priority": spec.get("priority", 0),
            "resources": _resources(spec["resources"]),
            "scaling": {"minReplicas": scaling.get("minReplicas", 1), "maxReplicas": highest},
            "engine": {kebab(option): value for option, value in spec.get("engine", {}).items()},
            "engine_environment": {name: str(value) for name, value in spec.get("engine_environment", {}).items()},
            "image": _image(spec),
            "network": _network(spec.get("network", {"mode": "user"})),
            "placement": {**_PLACEMENT, **spec.get("placement", {})},
            "kubernetes": _kubernetes(spec.get("kubernetes")),
            "profile": spec.get("profile"),
            "storage": {"cache": _cache(spec.get("storage", {}).get("cache"))},
            "monitoring": {"node_exporter": True, **spec.get("monitoring", {})},
        },
    }


def kebab(option: str) -> str:
    """Return a vLLM option's name as vLLM spells it: ``max_model_len`` is ``max-model-len``."""
    return option.replace("_", "-")


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    memory = resources.get("memory", DEFAULT_MEMORY)
    accelerator_memory = resources.get("accelerator_memory", 0)
    memory_bytes = quantities.parse_bytes(memory)
    accelerator_bytes = quantities.parse_bytes(accelerator_memory)
    cpu_millis = quantities.parse_millis(resources.get("cpu", DEFAULT_CPU))
    return {
        "cpu": quantities.to_cpus(cpu_millis),
        "cpu_millis": cpu_millis,
        "memory": str(memory),
        "memory_bytes": memory_bytes,
        "memory_mib": quantities.to_mib(memory_bytes),
        "accelerator_count": resources["accelerator_count"],
        "accelerator_type": resources.get("accelerator_type"),
        "accelerator_memory": str(accelerator_memory),
        "accelerator_memory_bytes": accelerator_bytes,
        "accelerator_memory_mib": quantities.to_mib(accelerator_bytes),
    }


def _image(spec: dict[str, Any]) -> dict[str, Any]:
    profile = "cpu" if spec["resources"]["accelerator_count"] == 0 else "cuda"
    return {"name": f"vllmd-{profile}", "version": "latest", **spec.get("image", {})}


def _kubernetes(kubernetes: dict[str, Any] | None) -> dict[str, Any] | None:
    if kubernetes is None:
        return None
    return {"node_name": None, "labels": {}, "taints": [], "open_tcp": [], "open_udp": [], **kubernetes}


def _cache(cache: dict[str, Any] | None) -> dict[str, Any] | None:
    if cache is None:
        return None
    size_bytes = quantities.parse_bytes(cache.get("size", 0))
    return {
        "size": str(cache["size"]) if "size" in cache else None,
        "size_mib": quantities.to_mib(size_bytes),
        "device": cache.get("device"),
        "format": cache.get("format", False),
        "required": cache.get("required", False),
    }


def _network(network: dict[str, Any]) -> dict[str, Any]:
    if network["mode"] == "tap":
        return {"tap": None, "bridge": None, "mac": None, "address": None, "gateway": None, "dns": [], **network}
    if network["mode"] == "isolated":
        allow = [{"tcp": [], "udp": [], **each} for each in network.get("allow", [])]
        return {"mode": "isolated", "allow": allow, "forward": _forwards(network.get("forward", []), EVERY_ADDRESS)}
    forwards = network.get("forward", [{"host_port": DEFAULT_API_PORT}])
    return {"mode": "user", "forward": _forwards(forwards, "127.0.0.1")}


def _forwards(forwards: list[dict[str, Any]], address: str) -> list[dict[str, Any]]:
    return [{"host_address": address, "guest_port": DEFAULT_API_PORT, **each} for each in forwards]
