"""A test cluster as its administrator sees it, from a host of the control plane."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

IMAGE = "bed.invalid/busybox:1"


@dataclass(frozen=True)
class Cluster:
    """A test cluster; `host` is a member of its control plane."""

    host: Any

    @staticmethod
    def command(program: str) -> str:
        """Return how the program is called with the administrator's credentials."""
        return f"{program} --kubeconfig=/etc/kubernetes/admin.conf"

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints."""
        return self.host.check_output(f"{self.command('kubectl')} {shlex.join(arguments)}")

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
        return self.host.check_output(f"{self.command('kubeadm')} token create --ttl={ttl}")

    def tokens(self) -> list[str]:
        """The names of the bootstrap tokens that there are."""
        field = "--field-selector=type=bootstrap.kubernetes.io/token"
        return self.kubectl("--namespace=kube-system", "get", "secrets", field, "--output=name").split()

    def apply(self, *objects: dict[str, Any]) -> None:
        """Let the cluster have these objects."""
        text = "\n---\n".join(json.dumps(each) for each in objects)
        self.host.check_output(f"echo {shlex.quote(text)} | {self.command('kubectl')} apply --filename=-")

    def start_pod(self, name: str, node: str, *command: str) -> None:
        """Let a pod run on the node."""
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
        self.apply(pod)

    def run_pod(self, name: str, node: str, *command: str) -> str:
        """Run a pod on the node; its address once it runs."""
        self.start_pod(name, node, *command)
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=90s")
        return str(self.get("pod", name)["status"]["podIP"])
