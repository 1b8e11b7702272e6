# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The engine in its container: vLLM's arguments and environment, and the seconds that a shutdown takes."""

from __future__ import annotations

import json
from typing import Any

from .settings import RenderError, Settings

PORT = 8000
MODELS_DIRPATH = "/var/lib/vllmd/models"
CACHE_DIRPATH = "/var/lib/vllmd/cache"
#: After the last request: the engine's processes end, and what they wrote is flushed.
_END_SECONDS = 30
#: Any of them says how the accelerators are shared out; without one all of a replica's serve one copy of the model.
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
#: Without one of these vLLM takes a share of the whole node's memory for its cache on the CPU (cpu_worker.py), which
#: is more than the container may have.
_CPU_CACHE = ("kv-cache-memory-bytes", "gpu-memory-utilization", "VLLM_CPU_KVCACHE_SPACE")
_CPU_CACHE_PART = 4


def arguments(runtime: dict[str, Any], settings: Settings) -> list[str]:
    """Return vLLM's arguments: the model, where it listens, how it ends, and ``spec.engine`` sorted by option."""
    spec = runtime["spec"]
    model, resources = spec["model"], spec["resources"]
    path = f"{MODELS_DIRPATH}/{model['repository']}" if model["source"] == "local" else model["repository"]
    options: dict[str, Any] = {
        "model": path,
        "served-model-name": model["name"],
        "host": "0.0.0.0",  # noqa: S104 -- what reaches it is decided by the NetworkPolicy
        "port": PORT,
        "shutdown-timeout": drain_seconds(runtime, settings),
    }
    engine = {name: value for name, value in spec["engine"].items() if name not in options}
    count = resources["accelerator_count"]
    if count > 1 and not any(name in engine for name in _PARALLEL):
        engine["tensor-parallel-size"] = count
    said = [*engine, *spec["engine_environment"]]
    if count == 0 and not any(name in said for name in _CPU_CACHE):
        engine["kv-cache-memory-bytes"] = resources["memory_bytes"] // _CPU_CACHE_PART
    chosen = [*options.items(), *sorted(engine.items())]
    return [_escaped(each) for name, value in chosen for each in _option(name, value)]


def _option(name: str, value: Any) -> list[str]:
    """Return one option as vLLM's parser reads it; ``false`` is ``--no-NAME``, a mapping is JSON."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else [f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *(_plain(each) for each in value)] if value else []
    if isinstance(value, dict):
        return [f"--{name}={json.dumps(value, sort_keys=True, ensure_ascii=False)}"]
    return [f"--{name}={_plain(value)}"]


def _plain(value: Any) -> str:
    return str(value)


def _escaped(text: str) -> str:
    # $(NAME) is a variable to Kubernetes in arguments and values; $$ is a dollar sign.
    return text.replace("$", "$$")


def environment(runtime: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """Return the container's variables, sorted by name: ours, the manifest's over them, and those of Secrets.

    Raises RenderError when a Secret's variable is also given in the clear.
    """
    spec = runtime["spec"]
    plain: dict[str, str] = {}
    if spec["model"]["source"] == "local":
        plain["HF_HUB_OFFLINE"] = "1"
    if spec["resources"]["accelerator_count"] == 0:
        # OpenMP would start a thread for each CPU of the node.
        plain["OMP_NUM_THREADS"] = str(spec["resources"]["cpu"])
    plain.update(spec["engine_environment"])
    found: dict[str, dict[str, Any]] = {name: {"name": name, "value": _escaped(value)} for name, value in plain.items()}
    name = runtime["metadata"]["name"]
    for secret in settings.secrets:
        if secret.runtimes and name not in secret.runtimes:
            continue
        if secret.variable in spec["engine_environment"]:
            raise RenderError(
                f"runtime {name}: {secret.variable} is in spec.engine_environment and in the secrets; "
                "remove it from one"
            )
        reference = {"name": secret.secret, "key": secret.key}
        found[secret.variable] = {"name": secret.variable, "valueFrom": {"secretKeyRef": reference}}
    return [found[each] for each in sorted(found)]


def drain_seconds(runtime: dict[str, Any], settings: Settings) -> int:
    """Return how long requests may take after SIGTERM: the manifest's ``shutdown-timeout``, else the settings'."""
    given = runtime["spec"]["engine"].get("shutdown-timeout", settings.drain_seconds)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise RenderError(
            f"runtime {runtime['metadata']['name']}: spec.engine.shutdown-timeout is {given!r}; "
            "allowed: whole seconds, 0 or more"
        )
    return given


def grace_seconds(runtime: dict[str, Any], settings: Settings) -> int:
    """Return the pod's grace period: until no endpoint leads to it, until its requests ended, until it is gone."""
    return settings.endpoint_seconds + drain_seconds(runtime, settings) + _END_SECONDS
