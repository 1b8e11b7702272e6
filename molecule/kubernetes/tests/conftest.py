"""The cluster as its administrator sees it, from the control plane's host."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from typing import Any

import pytest
import testinfra

KUBECTL = "/srv/kubernetes/programs/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
KUBEADM = "/srv/kubernetes/programs/kubeadm --kubeconfig=/etc/kubernetes/admin.conf"
IMAGE = "bed.invalid/busybox:1"


@dataclass(frozen=True)
class Cluster:
    """A test cluster; `host` runs its control plane."""

    host: Any

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints."""
        return self.host.check_output(f"{KUBECTL} {shlex.join(arguments)}")

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes by name."""
        return {node["metadata"]["name"]: node for node in self.get("nodes")["items"]}

    def is_ready(self, node: str) -> bool:
        """Whether the node is there and says that it is ready."""
        found = self.nodes().get(node)
        conditions = found["status"]["conditions"] if found else []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def token(self, ttl: str = "10m") -> str:
        """A new bootstrap token that lives for `ttl`."""
        return self.host.check_output(f"{KUBEADM} token create --ttl={ttl}")

    def tokens(self) -> list[str]:
        """The names of the bootstrap tokens that there are."""
        field = "--field-selector=type=bootstrap.kubernetes.io/token"
        return self.kubectl("--namespace=kube-system", "get", "secrets", field, "--output=name").split()

    def run_pod(self, name: str, node: str, *command: str) -> str:
        """Run a pod on the node; its address once it runs."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": name, "image": IMAGE, "command": ["busybox", *command]}],
            },
        }
        self.host.check_output(f"echo {shlex.quote(json.dumps(pod))} | {KUBECTL} apply --filename=-")
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=90s")
        return str(self.get("pod", name)["status"]["podIP"])


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of this run."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return Cluster(testinfra.get_host("ansible://control", ansible_inventory=inventory))
