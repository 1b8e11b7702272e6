# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The cluster as an upgrade sees it, read from the API server's own objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..kubernetes import versions
from ..kubernetes.errors import NodeError
from ..kubernetes.versions import Version

#: On a node that an upgrade has cordoned, with the version that it upgrades to; without it somebody else has.
CORDONED = "vllmd.com/cordoned-for-upgrade"
#: The second one until 1.24 (kubernetes.io, "Well-Known Labels").
_MEMBER_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Node:
    """A node. ``control_plane`` is the oldest version of its static pods; None on one that is no member, or unknown.

    ``cordoned_for`` is the version that an upgrade has cordoned it for; empty when none has.
    """

    name: str
    kubelet: Version
    is_member: bool
    is_ready: bool
    is_cordoned: bool
    cordoned_for: str
    control_plane: Version | None = None


@dataclass(frozen=True)
class Cluster:
    """The version that kubeadm last brought the cluster to, and its nodes."""

    version: Version
    nodes: tuple[Node, ...]

    @property
    def members(self) -> tuple[Node, ...]:
        """Return the nodes of the control plane."""
        return tuple(node for node in self.nodes if node.is_member)


def read(nodes: Mapping[str, Any], pods: Mapping[str, Any], configuration: str) -> Cluster:
    """Return the cluster: lists of nodes and of kube-system's pods, and kubeadm's ClusterConfiguration as text.

    Raises NodeError when something in it cannot be understood.
    """
    match = re.search(r"^kubernetesVersion:\s*[\"']?([^\s\"']+)", configuration, re.MULTILINE)
    if match is None:
        raise NodeError(
            "ConfigMap kubeadm-config in kube-system names no version: the cluster was not set up by kubeadm, "
            "which is what upgrades it"
        )
    planes = _control_planes(pods.get("items", ()))
    found = [_node(item, planes) for item in nodes.get("items", ())]
    return Cluster(versions.parse(match[1], "kubeadm-config"), tuple(sorted(found, key=lambda node: node.name)))


def _node(item: Mapping[str, Any], planes: Mapping[str, Version]) -> Node:
    metadata, status = item["metadata"], item.get("status", {})
    name = str(metadata["name"])
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    return Node(
        name=name,
        kubelet=versions.parse(str(status.get("nodeInfo", {}).get("kubeletVersion", "")), f"kubelet of {name}"),
        is_member=any(label in labels for label in _MEMBER_LABELS),
        is_ready=conditions.get("Ready") == "True",
        is_cordoned=bool(item.get("spec", {}).get("unschedulable")),
        cordoned_for=str(annotations.get(CORDONED, "")),
        control_plane=planes.get(name),
    )


def _control_planes(pods: Iterable[Mapping[str, Any]]) -> dict[str, Version]:
    """Return the oldest version of each node's static pods, by the tags of their images."""
    found: dict[str, Version] = {}
    for pod in pods:
        node = str(pod.get("spec", {}).get("nodeName", ""))
        if pod.get("metadata", {}).get("labels", {}).get("component") not in _COMPONENTS:
            continue
        tag = str(pod["spec"]["containers"][0].get("image", "")).rpartition(":")[2]
        if re.fullmatch(r"v[0-9]+\.[0-9]+\.[0-9]+.*", tag):
            version = versions.parse(tag)
            found[node] = min(found.get(node, version), version)
    return found
