# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The small objects around a Deployment: account, claim, Service, autoscaler, disruption budget, monitor, namespace."""

from __future__ import annotations

from typing import Any

from .engine import PORT
from .names import RUNTIME_LABEL, object_name, selector
from .settings import RenderError, Settings
from .workload import lowest_replicas, quantity

_SCRAPE_SECONDS = 15


def service_account(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return an account of the runtime's own, which no role is bound to and whose token no pod gets."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }


def cache_claim(runtime: dict[str, Any], metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the claim of the model cache that all replicas share. Raises RenderError when they cannot."""
    name = runtime["metadata"]["name"]
    if settings.cache_access_mode == "ReadWriteOnce" and runtime["spec"]["scaling"]["maxReplicas"] > 1:
        raise RenderError(
            f"runtime {name}: up to {runtime['spec']['scaling']['maxReplicas']} replicas cannot share a cache that is "
            "ReadWriteOnce; set cache_access_mode to ReadWriteMany, remove spec.storage, or set maxReplicas to 1"
        )
    spec: dict[str, Any] = {"accessModes": [settings.cache_access_mode]}
    if settings.storage_class:
        spec["storageClassName"] = settings.storage_class
    size = quantity(runtime["spec"]["storage"]["cache"]["size_mib"] * 2**20)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**metadata, "name": object_name(name, "cache")},
        "spec": {**spec, "resources": {"requests": {"storage": size}}},
    }


def service(runtime: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the Service: the API, and its metrics, on port 8000 of the runtime's name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "selector": selector(runtime["metadata"]["name"]),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def autoscaler(runtime: dict[str, Any], metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the HorizontalPodAutoscaler: quick to add, slow to take away, because a replica takes minutes to load."""
    if settings.scaling_metric == "queue":
        target = {"type": "AverageValue", "averageValue": str(settings.queue_length)}
        metric = {"type": "Pods", "pods": {"metric": {"name": settings.queue_metric}, "target": target}}
    else:
        usage = {"type": "Utilization", "averageUtilization": settings.cpu_percent}
        metric = {"type": "Resource", "resource": {"name": "cpu", "target": usage}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]},
            "minReplicas": lowest_replicas(runtime),
            "maxReplicas": runtime["spec"]["scaling"]["maxReplicas"],
            "metrics": [metric],
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 60,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": 600,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
                },
            },
        },
    }


def disruption_budget(runtime: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the budget: one replica at a time, and one that serves nothing holds up no drain of its node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(runtime["metadata"]["name"])},
        },
    }


def service_monitor(runtime: dict[str, Any], metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the Prometheus operator's ServiceMonitor."""
    chosen = {name: settings.service_monitor_labels[name] for name in sorted(settings.service_monitor_labels)}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {**metadata, "labels": {**metadata["labels"], **chosen}},
        "spec": {
            "jobLabel": "app.kubernetes.io/name",
            "targetLabels": [RUNTIME_LABEL],
            "selector": {"matchLabels": selector(runtime["metadata"]["name"])},
            "endpoints": [
                {
                    "port": "http",
                    "path": "/metrics",
                    "interval": f"{_SCRAPE_SECONDS}s",
                    "scrapeTimeout": f"{_SCRAPE_SECONDS - 5}s",
                }
            ],
        },
    }


def namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return the namespace, which admits pods of the restricted Pod Security Standard only."""
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**labels, **levels}}}
