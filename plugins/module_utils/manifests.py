# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Runtime manifests: read, validate, and return them as plain data with every default applied.

The rules that a JSON Schema can say are in ``schemas/runtime-v1alpha1.schema.json``; those that compare two fields are
in ``_consistency``. A refused manifest gives one line per wrong field::

    runtime.yaml:14:5: field spec.scaling.min: unknown field; allowed: maxReplicas, minReplicas
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

from . import quantities
from .manifest_schema import Problem, problem, schema_problems
from .yaml_marks import Document, YamlProblem, load

#: The seed's launcher defaults, so that a manifest without these fields runs as the launcher alone would.
DEFAULT_CPU = 4
DEFAULT_MEMORY = "16Gi"
SMALLEST_MEMORY_MIB = 128
SMALLEST_CACHE_MIB = 64
DEFAULT_API_PORT = 8000

#: vLLM options that the guest sets itself, with the field that decides them.
RESERVED_ENGINE_OPTIONS = {
    "config": "it is how the guest passes spec.engine",
    "host": "the guest listens on all of its addresses; set spec.network instead",
    "model": "set spec.model.repository instead",
    "port": "the guest always serves on port 8000; set spec.network.forward instead",
    "served-model-name": "set spec.model.name instead",
}


class ManifestError(ValueError):
    """A manifest is refused; ``problems`` holds one line per wrong field, each with file, line and column."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = [f"{source}:{each.line}:{each.column}: {each.message}" for each in problems]
        super().__init__("\n".join(self.problems))


def read_runtimes(paths: Iterable[FilePath]) -> list[dict[str, Any]]:
    """Read every manifest in ``paths``; a directory stands for its ``*.yaml`` and ``*.yml`` files, sorted.

    Returns one dict per file as `load_runtime` does, in order. Raises ManifestError when one cannot be read, is
    refused, or uses the name of another.
    """
    runtimes: list[dict[str, Any]] = []
    first_by_name: dict[str, dict[str, Any]] = {}
    for path in _files(paths):
        runtime = load_runtime(_read_text(path), str(path))
        name = runtime["metadata"]["name"]
        if name in first_by_name:
            other = first_by_name[name]["source"]
            message = (
                f"field metadata.name: {name!r} is also the name in {other['path']}:{other['line']}; names are unique"
            )
            raise ManifestError(str(path), [Problem(runtime["source"]["line"], 1, message)])
        first_by_name[name] = runtime
        runtimes.append(runtime)
    return runtimes


def load_runtime(text: str, source: str) -> dict[str, Any]:
    """Validate the manifest ``text`` and return it as plain data; ``source`` is the file's name for messages.

    The result has the manifest's own shape with defaults applied, ``spec.engine`` in kebab-case, sizes also in bytes
    and MiB (``memory_bytes``, ``memory_mib``, ``accelerator_memory_bytes``, ``accelerator_memory_mib``), and
    ``source`` (``path``, ``line``). Raises ManifestError, and nothing else, for any text.
    """
    try:
        document = load(text)
    except YamlProblem as error:
        raise ManifestError(source, [Problem(error.mark.line, error.mark.column, error.message)]) from None
    problems = sorted(set(schema_problems(document)))
    if not problems:
        problems = sorted(set(_consistency(document)))
    if problems:
        raise ManifestError(source, problems)
    runtime = _with_defaults(document.data)
    runtime["source"] = {"path": source, "line": document.mark(("metadata", "name")).line}
    return runtime


def _files(paths: Iterable[FilePath]) -> Iterator[FilePath]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml") and each.is_file())
        if not found:
            message = "the directory holds no manifest; expected files that end in .yaml or .yml"
            raise ManifestError(str(path), [Problem(1, 1, message)])
        yield from found


def _read_text(path: FilePath) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text: byte 0x{error.object[error.start]:02x}; save the file as UTF-8"
        raise ManifestError(str(path), [Problem(line, 1, message)]) from None
    except OSError as error:
        message = f"cannot read the manifest: {error.strerror or error}"
        raise ManifestError(str(path), [Problem(1, 1, message)]) from None


def kebab(option: str) -> str:
    """Return a vLLM option's name as vLLM spells it: ``max_model_len`` is ``max-model-len``."""
    return option.replace("_", "-")


def _consistency(document: Document) -> Iterator[Problem]:
    """Check the rules that a schema cannot say; the schema holds already."""
    spec = document.data["spec"]
    yield from _resource_rules(document, spec["resources"])
    scaling = spec.get("scaling", {})
    lowest, highest = scaling.get("minReplicas"), scaling.get("maxReplicas")
    if lowest is not None and highest is not None and lowest > highest:
        message = f"found {lowest}; allowed: at most spec.scaling.maxReplicas, which is {highest}"
        yield problem(document, ("spec", "scaling", "minReplicas"), message)
    yield from _engine_rules(document, spec.get("engine", {}))
    yield from _network_rules(document, spec.get("network", {}))
    if "cache" in spec.get("storage", {}):
        yield from _cache_rules(document, spec["storage"]["cache"])


def _resource_rules(document: Document, resources: dict[str, Any]) -> Iterator[Problem]:
    sizes: dict[str, int] = {}
    for key in ("memory", "accelerator_memory"):
        if key in resources:
            try:
                sizes[key] = quantities.parse_bytes(resources[key])
            except quantities.QuantityError as error:
                yield problem(document, ("spec", "resources", key), f"found {error}")
    if "memory" in sizes and quantities.to_mib(sizes["memory"]) < SMALLEST_MEMORY_MIB:
        message = f"found {resources['memory']!r}; allowed: at least {SMALLEST_MEMORY_MIB}Mi"
        yield problem(document, ("spec", "resources", "memory"), message)
    if resources["accelerator_count"] == 0:
        for key in ("accelerator_memory", "accelerator_type"):
            if key in resources and sizes.get(key) != 0:
                message = f"found {resources[key]!r} with accelerator_count 0; raise accelerator_count or remove {key}"
                yield problem(document, ("spec", "resources", key), message)


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
    seen: dict[tuple[str, int], int] = {}
    for index, forward in enumerate(network.get("forward", [])):
        endpoint = (forward.get("host_address", "127.0.0.1"), forward["host_port"])
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


def _cache_rules(document: Document, cache: dict[str, Any]) -> Iterator[Problem]:
    path = ("spec", "storage", "cache")
    if ("size" in cache) == ("device" in cache):
        found = "both size and device" if "size" in cache else "neither size nor device"
        message = f"found {found}; allowed: size for a file that the host makes, or device for a disk of yours"
        yield problem(document, path, message)
    if "format" in cache and "device" not in cache:
        yield problem(document, (*path, "format"), "only goes with device; a file that the host makes is formatted")
    if "size" in cache:
        try:
            size_bytes = quantities.parse_bytes(cache["size"])
        except quantities.QuantityError as error:
            yield problem(document, (*path, "size"), f"found {error}")
            return
        if quantities.to_mib(size_bytes) < SMALLEST_CACHE_MIB:
            message = f"found {cache['size']!r}; allowed: at least {SMALLEST_CACHE_MIB}Mi"
            yield problem(document, (*path, "size"), message)


def _with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    spec = data["spec"]
    scaling = spec.get("scaling", {})
    highest = scaling.get("maxReplicas", max(1, scaling.get("minReplicas", 1)))
    return {
        "apiVersion": data["apiVersion"],
        "kind": data["kind"],
        "metadata": {"name": data["metadata"]["name"], "labels": dict(data["metadata"].get("labels", {}))},
        "spec": {
            "model": dict(spec["model"]),
            "resources": _resources(spec["resources"]),
            "scaling": {"minReplicas": scaling.get("minReplicas", 1), "maxReplicas": highest},
            "engine": {kebab(option): value for option, value in spec.get("engine", {}).items()},
            "engine_environment": {name: str(value) for name, value in spec.get("engine_environment", {}).items()},
            "image": _image(spec),
            "network": _network(spec.get("network", {"mode": "user"})),
            "placement": {"hosts": [], "numa_node": None, "devices": [], **spec.get("placement", {})},
            "profile": spec.get("profile"),
            "storage": {"cache": _cache(spec.get("storage", {}).get("cache"))},
            "monitoring": {"node_exporter": True, **spec.get("monitoring", {})},
        },
    }


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    memory = resources.get("memory", DEFAULT_MEMORY)
    accelerator_memory = resources.get("accelerator_memory", 0)
    memory_bytes = quantities.parse_bytes(memory)
    accelerator_bytes = quantities.parse_bytes(accelerator_memory)
    return {
        "cpu": resources.get("cpu", DEFAULT_CPU),
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
    forwards = network.get("forward", [{"host_port": DEFAULT_API_PORT}])
    return {
        "mode": "user",
        "forward": [{"host_address": "127.0.0.1", "guest_port": DEFAULT_API_PORT, **each} for each in forwards],
    }
