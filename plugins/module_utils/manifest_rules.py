# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The rules of a Runtime manifest that a JSON Schema cannot say, mostly because they compare two fields."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator
from typing import Any

from . import quantities
from .manifest_defaults import EVERY_ADDRESS, kebab
from .manifest_kubernetes_rules import target_rules
from .manifest_schema import Problem, problem
from .yaml_marks import Document, Path

SMALLEST_MEMORY_MIB = 128
SMALLEST_CACHE_MIB = 64
MOST_CPUS = 1024

#: vLLM options that the guest sets itself, with the field that decides them.
RESERVED_ENGINE_OPTIONS = {
    "config": "it is how the guest passes spec.engine",
    "host": "the guest listens on all of its addresses; set spec.network instead",
    "model": "set spec.model.repository instead",
    "port": "the guest always serves on port 8000; set spec.network.forward instead",
    "served-model-name": "set spec.model.name instead",
}
#: The labels of these domains that a kubelet may give itself (kubernetes.io, "NodeRestriction"); the guest checks too.
_RESERVED_LABELS = re.compile(r"(.*\.)?(kubernetes|k8s)\.io")
_OWN_LABELS = re.compile(r"(.*\.)?(kubelet|node)\.kubernetes\.io")
_ALLOWED_LABELS = (
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)


def rule_problems(document: Document) -> Iterator[Problem]:
    """Yield one problem per field that contradicts another, or is out of range. The schema holds already."""
    spec = document.data["spec"]
    yield from _resource_rules(document, spec["resources"])
    yield from _scaling_rules(document, spec)
    yield from _engine_rules(document, spec.get("engine", {}))
    yield from _network_rules(document, spec.get("network", {}))
    yield from _kubernetes_rules(document, spec.get("kubernetes", {}))
    if "cache" in spec.get("storage", {}):
        yield from _cache_rules(document, spec["storage"]["cache"])
    if spec.get("placement", {}).get("target") == "kubernetes":
        yield from target_rules(document)


def _resource_rules(document: Document, resources: dict[str, Any]) -> Iterator[Problem]:
    path = ("spec", "resources")
    if "memory" in resources:
        yield from _at_least(document, (*path, "memory"), resources["memory"], SMALLEST_MEMORY_MIB)
    if "cpu" in resources and not 0 < quantities.parse_millis(resources["cpu"]) <= MOST_CPUS * quantities.MILLIS:
        found = document.sources.get((*path, "cpu"), "")[:40]
        yield problem(document, (*path, "cpu"), f"found {found!r}; allowed: more than 0, at most {MOST_CPUS} CPUs")
    if resources["accelerator_count"] == 0:
        given = [key for key in ("accelerator_memory", "accelerator_type") if key in resources]
        for key in given:
            if key == "accelerator_type" or quantities.parse_bytes(resources[key]) > 0:
                message = f"found {resources[key]!r} with accelerator_count 0; raise accelerator_count or remove {key}"
                yield problem(document, (*path, key), message)


def _at_least(document: Document, path: Path, size: str | float, smallest_mib: int) -> Iterator[Problem]:
    if quantities.to_mib(quantities.parse_bytes(size)) < smallest_mib:
        yield problem(document, path, f"found {size!r}; allowed: at least {smallest_mib}Mi")


def _scaling_rules(document: Document, spec: dict[str, Any]) -> Iterator[Problem]:
    scaling = spec.get("scaling", {})
    lowest, highest = scaling.get("minReplicas", 1), scaling.get("maxReplicas")
    if "minReplicas" in scaling and highest is not None and lowest > highest:
        message = f"found {lowest}; allowed: at most spec.scaling.maxReplicas, which is {highest}"
        yield problem(document, ("spec", "scaling", "minReplicas"), message)
    replicas = highest if highest is not None else max(1, lowest)
    if replicas > 1:
        own = [("network", key) for key in ("address", "mac", "tap")] + [("kubernetes", "node_name")]
        for section, key in own:
            if key in spec.get(section, {}):
                message = f"one value for {replicas} replicas; remove {key}, or set spec.scaling.maxReplicas to 1"
                yield problem(document, ("spec", section, key), message)


def _engine_rules(document: Document, engine: dict[str, Any]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for option, value in engine.items():
        path = ("spec", "engine", option)
        name = kebab(option)
        if name in seen:
            yield problem(document, path, f"the same vLLM option as {seen[name]}; remove one of the two")
        seen.setdefault(name, option)
        if name in RESERVED_ENGINE_OPTIONS:
            yield problem(document, path, f"not allowed: {RESERVED_ENGINE_OPTIONS[name]}")
        if not _is_finite(value):
            yield problem(document, path, "found an infinite or undefined number; allowed: a finite number")


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_is_finite(each) for each in value.values())
    return all(_is_finite(each) for each in value) if isinstance(value, list) else True


def _network_rules(document: Document, network: dict[str, Any]) -> Iterator[Problem]:
    isolated = network.get("mode") == "isolated"
    seen: dict[tuple[str, int], int] = {}
    for index, forward in enumerate(network.get("forward", [])):
        address = forward.get("host_address", EVERY_ADDRESS if isolated else "127.0.0.1")
        if isolated and ipaddress.IPv4Address(address).is_loopback:
            message = f"found {address!r}; the host reaches the guest by its own address; name one of the host's uplink"
            yield problem(document, ("spec", "network", "forward", index, "host_address"), message)
        endpoint = (address, forward["host_port"])
        if endpoint in seen:
            message = f"{endpoint[0]}:{endpoint[1]} is already forwarded by forward[{seen[endpoint]}]; use another port"
            yield problem(document, ("spec", "network", "forward", index, "host_port"), message)
        seen.setdefault(endpoint, index)
    if "gateway" in network:
        interface = ipaddress.IPv4Interface(network["address"])
        if ipaddress.IPv4Address(network["gateway"]) not in interface.network:
            message = (
                f"found {network['gateway']!r}; allowed: an address in {interface.network}, the network of address"
            )
            yield problem(document, ("spec", "network", "gateway"), message)


def _kubernetes_rules(document: Document, kubernetes: dict[str, Any]) -> Iterator[Problem]:
    for label in kubernetes.get("labels", {}):
        prefix = label.rpartition("/")[0]
        if _RESERVED_LABELS.fullmatch(prefix) and not _OWN_LABELS.fullmatch(prefix) and label not in _ALLOWED_LABELS:
            message = "a node may not give itself this label; allowed: a domain of your own, or node.kubernetes.io"
            yield problem(document, ("spec", "kubernetes", "labels", label), message)
    seen: dict[tuple[str, str], int] = {}
    for index, taint in enumerate(kubernetes.get("taints", [])):
        first = seen.setdefault((taint["key"], taint["effect"]), index)
        if first != index:
            message = f"the key and effect of taints[{first}] again, which a node has once; remove one of the two"
            yield problem(document, ("spec", "kubernetes", "taints", index), message)


def _cache_rules(document: Document, cache: dict[str, Any]) -> Iterator[Problem]:
    path = ("spec", "storage", "cache")
    if ("size" in cache) == ("device" in cache):
        found = "both size and device" if "size" in cache else "neither size nor device"
        message = f"found {found}; allowed: size for a file that the host makes, or device for a disk of yours"
        yield problem(document, path, message)
    if "format" in cache and "device" not in cache:
        yield problem(document, (*path, "format"), "only goes with device; a file that the host makes is formatted")
    if "size" in cache:
        yield from _at_least(document, (*path, "size"), cache["size"], SMALLEST_CACHE_MIB)
