# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The Deployment: one container that holds to the restricted Pod Security Standard, its probes, volumes and rollout."""

from __future__ import annotations

from typing import Any

from . import engine, placing
from .names import object_name, selector
from .settings import RenderError, Settings

#: The image's own user and group (element vllmd-runtime); a name would not prove to the kubelet that it is not root.
USER_ID = 700
#: An engine that does not answer for this long is ended, the same silence that a virtual machine's engine may keep.
_SILENCE_SECONDS = 120
_PROBE_SECONDS = 10
_MIB_PER_ACCELERATOR = 1024
_SHARED_MEMORY_PART = 2
_UNITS = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def quantity(size_bytes: int) -> str:
    """Return whole bytes as a Kubernetes quantity in its canonical form: the largest binary unit without a rest."""
    for unit, factor in _UNITS:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def cpus(millis: int) -> str:
    """Return thousandths of a CPU as a canonical quantity: ``4``, ``500m``."""
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def lowest_replicas(runtime: dict[str, Any]) -> int:
    """Return how many replicas always run; an autoscaler keeps one at least."""
    return int(max(1, runtime["spec"]["scaling"]["minReplicas"]))


def is_scaled(runtime: dict[str, Any]) -> bool:
    """Return whether an autoscaler has anything to decide."""
    return bool(runtime["spec"]["scaling"]["maxReplicas"] > lowest_replicas(runtime))


def image_reference(runtime: dict[str, Any], settings: Settings) -> str:
    """Return the image by its digest. Raises RenderError when nobody said where it is."""
    image = runtime["spec"]["image"]
    key = image["name"] if image["version"] == "latest" else f"{image['name']}:{image['version']}"
    if key not in settings.images:
        raise RenderError(
            f"runtime {runtime['metadata']['name']}: no reference for image {key}; give it in images as "
            f"{key}: registry/name@sha256:... (in the playbook: vllmd_kubernetes_images)"
        )
    return settings.images[key]


def deployment(runtime: dict[str, Any], metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the Deployment. Raises RenderError for what cannot be had."""
    name = runtime["metadata"]["name"]
    spec: dict[str, Any] = {}
    if not is_scaled(runtime):  # else the autoscaler decides, and applying this again must not undo it
        spec["replicas"] = lowest_replicas(runtime)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            **spec,
            "selector": {"matchLabels": selector(name)},
            "strategy": _strategy(runtime, settings),
            "progressDeadlineSeconds": settings.start_seconds + 600,
            "revisionHistoryLimit": 3,
            "template": {
                "metadata": {
                    "labels": metadata["labels"],
                    "annotations": {"vllmd.com/model": runtime["spec"]["model"]["name"]},
                },
                "spec": _pod(runtime, settings),
            },
        },
    }


def _strategy(runtime: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Never fewer replicas than run always, but one: several need no spare accelerators, a single one needs them."""
    if runtime["spec"]["storage"]["cache"] and settings.cache_access_mode == "ReadWriteOnce":
        # The old pod's node holds the volume until it is gone.
        return {"type": "Recreate"}
    several = lowest_replicas(runtime) > 1
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": int(several), "maxSurge": int(not several)},
    }


def _pod(runtime: dict[str, Any], settings: Settings) -> dict[str, Any]:
    name = runtime["metadata"]["name"]
    pod: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        # A Service called "vllm" would set VLLM_PORT to an address.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": engine.grace_seconds(runtime, settings),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.runtime_class and runtime["spec"]["resources"]["accelerator_count"]:
        pod["runtimeClassName"] = settings.runtime_class
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": each} for each in settings.image_pull_secrets]
    return {
        **pod,
        **placing.placing(runtime, settings),
        "containers": [_container(runtime, settings)],
        "volumes": _volumes(runtime, settings),
    }


def _container(runtime: dict[str, Any], settings: Settings) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "vllm",
        "image": image_reference(runtime, settings),
        "imagePullPolicy": "IfNotPresent",
        "args": engine.arguments(runtime, settings),
    }
    variables = engine.environment(runtime, settings)
    if variables:
        container["env"] = variables
    amounts = _amounts(runtime, settings)
    return {
        **container,
        "ports": [{"name": "http", "containerPort": engine.PORT, "protocol": "TCP"}],
        # Equal: the pod has its CPUs and memory to itself (QoS class Guaranteed) and may be aligned to a NUMA node.
        "resources": {"requests": amounts, "limits": dict(amounts)},
        # Loading may take long, falling silent afterwards may not; a busy engine is slow, so it is asked patiently.
        "startupProbe": _probe(period=_PROBE_SECONDS, failures=-(-settings.start_seconds // _PROBE_SECONDS)),
        "readinessProbe": _probe(period=5, failures=3),
        "livenessProbe": _probe(period=20, failures=_SILENCE_SECONDS // 20),
        # Until every node has heard that this pod is no endpoint any more; only then SIGTERM, and vLLM takes no more.
        "lifecycle": {"preStop": {"sleep": {"seconds": settings.endpoint_seconds}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": engine.CACHE_DIRPATH},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- the container's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _amounts(runtime: dict[str, Any], settings: Settings) -> dict[str, str]:
    resources = runtime["spec"]["resources"]
    amounts = {"cpu": cpus(resources["cpu_millis"]), "memory": quantity(resources["memory_bytes"])}
    if resources["accelerator_count"]:
        amounts[placing.resource_name(runtime, settings)] = str(resources["accelerator_count"])
    return amounts


def _probe(period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": min(_PROBE_SECONDS, period),
        "failureThreshold": failures,
    }


def shared_memory_bytes(runtime: dict[str, Any]) -> int:
    """Return the size of /dev/shm: for NCCL a GiB for each accelerator, at most half of the memory."""
    resources = runtime["spec"]["resources"]
    wanted_mib = _MIB_PER_ACCELERATOR * max(1, resources["accelerator_count"])
    return int(min(wanted_mib, resources["memory_mib"] // _SHARED_MEMORY_PART)) * 2**20


def _volumes(runtime: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    if runtime["spec"]["storage"]["cache"]:
        claim = object_name(runtime["metadata"]["name"], "cache")
        cache: dict[str, Any] = {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}
    else:
        cache = {"name": "cache", "emptyDir": {"sizeLimit": settings.scratch_size}}
    shared = quantity(shared_memory_bytes(runtime))
    return [
        cache,
        {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
    ]
