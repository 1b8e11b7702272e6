# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The few calls of the cluster's API that the approver makes; all answers are the API's own objects, as plain dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.records import NAMESPACE

from .errors import NOT_FOUND, ClusterError

_SECONDS = 5


class Cluster:
    """The API server of one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read the kubeconfig. Raises ValueError."""
        settings = client.Configuration()
        # The loop tries again by itself.
        settings.retries = False
        try:
            config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        except (ConfigException, yaml.YAMLError) as error:
            raise ValueError(f"its kubeconfig cannot be read: {error}") from None
        api = client.ApiClient(settings)
        self._certificates = client.CertificatesV1Api(api)
        self._core = client.CoreV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        self._rights = client.RbacAuthorizationV1Api(api)

    @staticmethod
    def _ask(what: str, call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return what the API answers. Raises ClusterError."""
        try:
            answer = call(*arguments, _preload_content=False, _request_timeout=_SECONDS)
            found: dict[str, Any] = json.loads(answer.data)
        except client.ApiException as error:
            raise ClusterError(f"{what}: {_said(error)}", error.status or 0) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ClusterError(f"{what}: {' '.join(str(error).split())[:300]}") from None
        return found

    def requests(self) -> list[dict[str, Any]]:
        """Return all CertificateSigningRequests. Raises ClusterError."""
        listed = self._ask("cannot list requests", self._certificates.list_certificate_signing_request)
        return list(listed.get("items") or [])

    def records(self) -> list[dict[str, Any]]:
        """Return the ConfigMaps of registered nodes. Raises ClusterError."""
        listed = self._ask("cannot list records", self._core.list_namespaced_config_map, NAMESPACE)
        return list(listed.get("items") or [])

    def keep_record(self, config_map: dict[str, Any]) -> None:
        """Replace a record, unless somebody changed it since it was read. Raises ClusterError."""
        name = config_map["metadata"]["name"]
        self._ask("cannot keep a record", self._core.replace_namespaced_config_map, name, NAMESPACE, config_map)

    def node(self, name: str) -> dict[str, Any] | None:
        """Return a Node, None when there is none. Raises ClusterError."""
        try:
            return self._ask(f"cannot read node {name}", self._core.read_node, name)
        except ClusterError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def decide(self, request: dict[str, Any]) -> None:
        """Set the conditions of a request, unless somebody changed it since. Raises ClusterError."""
        call = self._certificates.replace_certificate_signing_request_approval
        self._ask("cannot decide", call, request["metadata"]["name"], request)

    def tell(self, event: dict[str, Any]) -> None:
        """Make an Event. Raises ClusterError."""
        self._ask("cannot make an event", self._core.create_namespaced_event, "default", event)

    def lease(self, name: str) -> dict[str, Any] | None:
        """Return a Lease, None when there is none. Raises ClusterError."""
        try:
            return self._ask("cannot read the lease", self._leases.read_namespaced_lease, name, NAMESPACE)
        except ClusterError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def keep_lease(self, lease: dict[str, Any], *, is_new: bool) -> None:
        """Make or replace a Lease, unless somebody else did since. Raises ClusterError."""
        if is_new:
            self._ask("cannot make the lease", self._leases.create_namespaced_lease, NAMESPACE, lease)
        else:
            name = lease["metadata"]["name"]
            self._ask("cannot renew the lease", self._leases.replace_namespaced_lease, name, NAMESPACE, lease)

    def remove_bindings(self, names: Sequence[str]) -> list[str]:
        """Remove ClusterRoleBindings; return those that were there. Raises ClusterError."""
        removed = []
        for name in names:
            try:
                self._ask(f"cannot read {name}", self._rights.read_cluster_role_binding, name)
                self._ask(f"cannot remove {name}", self._rights.delete_cluster_role_binding, name)
                removed.append(name)
            except ClusterError as error:
                if error.status != NOT_FOUND:
                    raise
        return removed


def _said(error: client.ApiException) -> str:
    """Return the API's own words."""
    try:
        return str(json.loads(error.body)["message"])[:300]
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
