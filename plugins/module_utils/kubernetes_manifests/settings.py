# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the cluster decides and a Runtime does not: namespace, images by digest, resource names, seconds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .names import LABEL_VALUE

#: One address space each: not the way to the world, so "the world" leaves them out (RFC 1918, 6598, 3927).
PRIVATE_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
_REFERENCE = re.compile(
    r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[\w.-]{1,128})?@sha256:[0-9a-f]{64}"
)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_:]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
_QUANTITY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
#: kubernetes.io: seconds are 32-bit there; a week is more than any engine takes.
_MOST_SECONDS = 7 * 86400
_RANGES = (
    ("cpu_percent", 1, 1000),
    ("queue_length", 1, 10**6),
    ("start_seconds", 60, _MOST_SECONDS),
    ("endpoint_seconds", 1, 600),
    ("drain_seconds", 0, _MOST_SECONDS),
)
_A_NAMESPACE = "a namespace: a-z, 0-9 and '-', at most 63"


class RenderError(ValueError):
    """A runtime cannot become Kubernetes objects; the message is one line: what, where, why, what to do."""


@dataclass(frozen=True)
class Secret:
    """An environment variable of the engine that a Secret's key holds, for the named runtimes or for all."""

    variable: str
    secret: str
    key: str
    runtimes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The cluster's side. Seconds and percent are whole; ``images`` maps an image's name to a reference by digest."""

    namespace: str = "vllmd"
    images: Mapping[str, str] = field(default_factory=dict)
    image_pull_secrets: tuple[str, ...] = ()
    accelerator_resources: Mapping[str, str] = field(default_factory=dict)
    runtime_class: str = ""
    storage_class: str = ""
    cache_access_mode: str = "ReadWriteMany"
    scratch_size: str = "100Gi"
    scaling_metric: str = "cpu"
    cpu_percent: int = 80
    queue_metric: str = "vllm_num_requests_waiting"
    queue_length: int = 4
    start_seconds: int = 3600
    endpoint_seconds: int = 15
    drain_seconds: int = 300
    client_namespaces: tuple[str, ...] = ()
    monitoring_namespace: str = "monitoring"
    service_monitor: bool = True
    service_monitor_labels: Mapping[str, str] = field(default_factory=dict)
    private_networks: tuple[str, ...] = PRIVATE_NETWORKS
    secrets: tuple[Secret, ...] = ()


def settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings for a module's options; what is not given or None has its default. Raises RenderError."""
    known = {each.name for each in fields(Settings)}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if name in known and value is not None}
    for name in ("image_pull_secrets", "client_namespaces", "private_networks"):
        if name in chosen:
            chosen[name] = tuple(chosen[name])
    chosen["secrets"] = tuple(
        Secret(each["variable"], each["secret"], each["key"], tuple(each.get("runtimes") or ()))
        for each in chosen.get("secrets", ())
    )
    result = Settings(**chosen)
    _check(result)
    return result


def _check(given: Settings) -> None:
    for name, reference in given.images.items():
        _want(f"images.{name}", reference, _REFERENCE, "a registry, a name and a digest: registry/name@sha256:...")
    for name, values, pattern, allowed in (
        ("namespace", [given.namespace], _LABEL, _A_NAMESPACE),
        ("monitoring_namespace", [given.monitoring_namespace], _LABEL, _A_NAMESPACE),
        ("client_namespaces", given.client_namespaces, _LABEL, _A_NAMESPACE),
        ("image_pull_secrets", given.image_pull_secrets, _SUBDOMAIN, "the name of a Secret"),
        ("runtime_class", [given.runtime_class or "none"], _SUBDOMAIN, "a name of a-z, 0-9, '-' and '.'"),
        ("storage_class", [given.storage_class or "none"], _SUBDOMAIN, "a name of a-z, 0-9, '-' and '.'"),
        ("queue_metric", [given.queue_metric], _METRIC, "a metric's name"),
        ("scratch_size", [given.scratch_size], _QUANTITY, "a size such as 100Gi"),
        ("service_monitor_labels", given.service_monitor_labels.values(), LABEL_VALUE, "a label's value"),
        ("accelerator_resources", given.accelerator_resources.values(), _RESOURCE, "a resource such as nvidia.com/gpu"),
        ("secrets.variable", [each.variable for each in given.secrets], _VARIABLE, "an environment variable's name"),
        ("secrets.secret", [each.secret for each in given.secrets], _SUBDOMAIN, "the name of a Secret"),
        ("secrets.key", [each.key for each in given.secrets], _SECRET_KEY, "a key of the Secret"),
    ):
        for value in values:
            _want(name, value, pattern, allowed)
    for name, lowest, highest in _RANGES:
        if not lowest <= getattr(given, name) <= highest:
            raise RenderError(f"{name}: found {getattr(given, name)}; allowed: {lowest} to {highest}")
    for network in given.private_networks:
        try:
            ipaddress.IPv4Network(network)
        except ValueError:
            raise RenderError(
                f"private_networks: found {network!r}; allowed: IPv4 networks such as 10.0.0.0/8"
            ) from None


def _want(name: str, value: Any, pattern: re.Pattern[str], allowed: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RenderError(f"{name}: found {value!r}; allowed: {allowed}")
