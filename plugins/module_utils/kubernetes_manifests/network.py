# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""NetworkPolicies: nothing reaches a runtime and it reaches nothing, but for what stands here."""

from __future__ import annotations

import ipaddress
from typing import Any

from .engine import PORT
from .names import CLIENT_LABEL, selector
from .settings import Settings

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_HTTPS = 443
_DNS = 53
_WORLD = "0.0.0.0/0"


def policy(runtime: dict[str, Any], metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the runtime's NetworkPolicy. The kubelet's probes come from the node and are not subject to it."""
    egress = _egress(runtime, settings)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": selector(runtime["metadata"]["name"])},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": _clients(settings), "ports": [_port("TCP", PORT)]}],
            "egress": egress,
        },
    }


def default_deny(namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return the policy for every other pod of the namespace: nothing in, nothing out."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "default-deny", "namespace": namespace, "labels": labels},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }


def _clients(settings: Settings) -> list[dict[str, Any]]:
    """Pods here that are labelled for it, the named namespaces, and Prometheus: API and metrics are one port."""
    namespaces = {*settings.client_namespaces, *([settings.monitoring_namespace] if settings.service_monitor else [])}
    named = [
        {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: each}}}
        for each in sorted(namespaces - {settings.namespace})
    ]
    return [{"podSelector": {"matchLabels": {CLIENT_LABEL: "true"}}}, *named]


def _egress(runtime: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """What ``spec.network.allow`` says; without it HTTPS to the world where a model comes from there; DNS beside it."""
    spec = runtime["spec"]
    if spec["network"]["mode"] == "isolated":
        allowed = spec["network"]["allow"]
    elif spec["model"]["source"] == "huggingface":
        allowed = [{"to": _WORLD, "tcp": [_HTTPS], "udp": []}]
    else:
        allowed = []
    rules = [_rule(each, settings) for each in allowed]
    return [_names(), *rules] if rules else []


def _names() -> dict[str, Any]:
    return {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [_port("UDP", _DNS), _port("TCP", _DNS)],
    }


def _rule(allowed: dict[str, Any], settings: Settings) -> dict[str, Any]:
    network = ipaddress.IPv4Network(allowed["to"])
    block: dict[str, Any] = {"cidr": str(network)}
    inner = sorted(ipaddress.IPv4Network(each) for each in settings.private_networks)
    # A larger network does not mean other pods and hosts inside it; who wants one of these names it.
    excluded = [str(each) for each in inner if each != network and each.subnet_of(network)]
    if excluded:
        block["except"] = excluded
    ports = [_port("TCP", port) for port in sorted(allowed["tcp"])] + [
        _port("UDP", port) for port in sorted(allowed["udp"])
    ]
    return {"to": [{"ipBlock": block}], "ports": ports}


def _port(protocol: str, port: int) -> dict[str, Any]:
    return {"protocol": protocol, "port": port}
