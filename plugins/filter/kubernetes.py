# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the roles for Kubernetes write into files and in which order they work: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import (
    components,
    kubelet,
    packages,
    versions,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError


def apt_source(line: str, key_path: str) -> str:
    """Return apt's source in deb822 for one line of an operator's, signed by the key at ``key_path`` alone."""
    try:
        return packages.source(line, key_path)
    except NodeError as error:
        raise AnsibleFilterError(str(error)) from None


def kubelet_configuration(
    version: str,
    *,
    cgroup_driver: str = "systemd",
    shutdown_seconds: int = 60,
    critical_seconds: int = 20,
    serving_certificates: bool = True,
    allow_swap: bool = False,
) -> dict[str, Any]:
    """Return the fields of KubeletConfiguration that a node of this ``version`` has of its own."""
    try:
        return kubelet.overrides(
            versions.parse(version, "kubernetes_node_version"),
            cgroup_driver=cgroup_driver,
            shutdown_seconds=int(shutdown_seconds),
            critical_seconds=int(critical_seconds),
            serving_certificates=bool(serving_certificates),
            allow_swap=bool(allow_swap),
        )
    except NodeError as error:
        raise AnsibleFilterError(str(error)) from None


def component_order(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a cluster's components in the order of what comes after what."""
    try:
        return components.ordered(given)
    except NodeError as error:
        raise AnsibleFilterError(str(error)) from None


def kubelet_merged(current: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a kubelet's configuration with ``wanted`` over it."""
    return kubelet.merged(current, wanted)


class FilterModule:
    """The collection's filters for nodes of a Kubernetes cluster."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "kubernetes_apt_source": apt_source,
            "kubernetes_components": component_order,
            "kubernetes_kubelet_configuration": kubelet_configuration,
            "kubernetes_kubelet_merged": kubelet_merged,
        }
