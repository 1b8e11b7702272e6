# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a cluster itself announces of its authority: to nodes that join, and to everything that runs in pods."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ..kubernetes.errors import NodeError
from ..kubernetes.programs import Kubectl
from . import certificates, components

with suppress(ImportError):  # libraries.missing() says so in words
    import yaml

_DATA = "certificate-authority-data"


def announced(kubectl: Kubectl) -> bytes:
    """Return the authorities that joining nodes are told of, as PEM; empty without any. Raises NodeError."""
    document = _announcement(kubectl)
    return base64.b64decode(_cluster(document)[_DATA]) if document else b""


def announce(kubectl: Kubectl, pem: bytes) -> None:
    """Tell joining nodes of these authorities; the cluster signs it anew for each token by itself. Raises NodeError."""
    document = _announcement(kubectl)
    if not document:
        return  # such a cluster is not joined by tokens
    _cluster(document)[_DATA] = base64.b64encode(pem).decode()
    patch = json.dumps({"data": {"kubeconfig": yaml.safe_dump(document, width=float("inf"))}})
    arguments = ("patch", "configmap", "cluster-info", "--namespace", "kube-public", "--type", "merge", "--patch")
    kubectl.must("cannot announce the authorities", *arguments, patch)


def published(kubectl: Kubectl, pem: bytes) -> list[str]:
    """Return who has other authorities than these, as namespace/name: what pods get, and older accounts' tokens.

    The controller manager writes both from what it was started with. Raises NodeError.
    """
    behind = []
    for kind, selector in (
        ("configmaps", "metadata.name=kube-root-ca.crt"),
        ("secrets", "type=kubernetes.io/service-account-token"),
    ):
        for item in _items(kubectl, kind, selector):
            given = item.get("data", {}).get("ca.crt")
            if given is not None and _pins(given, kind) != _pins(pem.decode(), kind):
                behind.append(f"{item['metadata']['namespace']}/{item['metadata']['name']}")
    return sorted(behind)


def await_published(kubectl: Kubectl, pem: bytes, timeout_seconds: float) -> None:
    """Wait until everything in the cluster has these authorities. Raises NodeError, which names what has not."""
    behind: list[str] = []

    def is_done() -> bool:
        behind[:] = published(kubectl, pem)
        return not behind

    try:
        components.wait(is_done, "the controller manager to publish the authorities", timeout_seconds)
    except NodeError as error:
        raise NodeError(f"{error}; not yet: {', '.join(behind[:5])}") from None


def nodes(kubectl: Kubectl) -> list[str]:
    """Return the names of the cluster's nodes. Raises NodeError."""
    return sorted(str(item["metadata"]["name"]) for item in _items(kubectl, "nodes", ""))


def restart_workloads(kubectl: Kubectl, namespaces: Sequence[str], timeout_seconds: float) -> list[str]:
    """Replace the pods of these namespaces' workloads, one after the other as each says, and wait. Raises NodeError.

    Programs read at their start whom they believe. Returns namespace/kind/name of each.
    """
    replaced = []
    for namespace in namespaces:
        names = kubectl.must(
            f"cannot list what runs in {namespace}",
            *("get", "deployments,daemonsets,statefulsets", "--namespace", namespace, "--output", "name"),
        ).split()
        for name in names:
            kubectl.must(f"cannot restart {name}", "rollout", "restart", name, "--namespace", namespace)
            replaced.append(f"{namespace}/{name}")
        for name in names:
            arguments = ("rollout", "status", name, "--namespace", namespace, f"--timeout={timeout_seconds:.0f}s")
            kubectl.must(f"{namespace}/{name} is not restarted", *arguments, timeout_seconds=timeout_seconds + 30)
    return replaced


def await_reachable(kubectl: Kubectl, names: Sequence[str], timeout_seconds: float) -> None:
    """Wait until the API server gets answers of these nodes' kubelets with its own certificate. Raises NodeError."""
    for name in names:
        components.wait(
            lambda name=name: kubectl.run("get", "--raw", f"/api/v1/nodes/{name}/proxy/healthz").status == 0,  # type: ignore[misc]
            f"the kubelet of {name} to answer the API server",
            timeout_seconds,
        )


def _announcement(kubectl: Kubectl) -> dict[str, Any]:
    arguments = ("get", "configmap", "cluster-info", "--namespace", "kube-public", "--output", "json")
    found = kubectl.must("cannot read what the cluster announces", *arguments, "--ignore-not-found")
    return dict(yaml.safe_load(json.loads(found)["data"]["kubeconfig"])) if found.strip() else {}


def _cluster(document: dict[str, Any]) -> dict[str, str]:
    """Return the only cluster of an announcement, which is a kubeconfig without a context."""
    found: dict[str, str] = document["clusters"][0]["cluster"]
    return found


def _items(kubectl: Kubectl, kind: str, selector: str) -> Iterator[dict[str, Any]]:
    arguments = ["get", kind, "--output", "json"]
    if selector:
        arguments += ["--all-namespaces", "--field-selector", selector]
    yield from json.loads(kubectl.must(f"cannot list {kind}", *arguments))["items"]


def _pins(text: str, what: str) -> set[str]:
    raw = text.encode() if text.startswith("-----") else base64.b64decode(text)
    return {certificates.pin(each) for each in certificates.parse(raw, what)}
