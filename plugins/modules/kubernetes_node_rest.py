#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_node_rest
short_description: Move the pods off a node while something on it is replaced, and let it take pods again
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. A node that is cordoned by this module carries an annotation, so that
    the next run knows whose cordon it is; a node that somebody else has cordoned is left as it is.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether something would be done.
    support: full
  diff_mode:
    description: Shows the node.
    support: full
options:
  name:
    description: The node's name.
    type: str
    required: true
  state:
    description:
      - V(drained) cordons the node and evicts its pods, so that PodDisruptionBudgets count.
      - V(returned) waits until the node is ready with O(version), and takes the cordon away that this module has set.
    type: str
    choices: [drained, returned]
    required: true
  version:
    description: The version of Kubernetes that the node is brought to.
    type: str
    required: true
  kubeconfig:
    description: Credentials that may evict pods and change nodes.
    type: path
    default: /etc/kubernetes/admin.conf
  kubectl:
    description: The program.
    type: str
    default: kubectl
  timeout:
    description: Seconds for the eviction, or until the node must be ready.
    type: int
    default: 600
  delete_emptydir_data:
    description: Whether pods may go that keep data in the node's own temporary directories.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Move the pods off
  vllmd.platform.kubernetes_node_rest:
    name: gpu-1
    state: drained
    version: 1.33.1
  delegate_to: control-1
"""

RETURN = r"""
left:
  description: Why the node was left as it is; empty when it was not.
  returned: success
  type: str
"""

import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.names import node_name
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade import drain
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade.cluster import CORDONED

_SPARE_SECONDS = 60
_POLL_SECONDS = 2


class Rest:
    """One node's rest, by kubectl."""

    def __init__(self, module: AnsibleModule) -> None:
        given = module.params
        self.name, self.check = node_name(given["name"]), module.check_mode
        self.version = str(versions.parse(given["version"]))
        self.seconds: int = given["timeout"]
        self.emptydir: bool = given["delete_emptydir_data"]
        self.kubectl = Kubectl(given["kubectl"], given["kubeconfig"])

    def node(self) -> dict[str, Any]:
        """Return the node. Raises NodeError when it is not there."""
        found = self.kubectl.node(self.name)
        if found is None:
            raise NodeError(f"the cluster has no node {self.name}")
        return found

    def uncordon(self) -> None:
        """Let the node take pods again. Raises NodeError."""
        self.kubectl.must(f"node {self.name} cannot be uncordoned", "uncordon", self.name)
        self.kubectl.must(f"node {self.name} cannot be annotated", "annotate", "node", self.name, f"{CORDONED}-")

    def drained(self) -> dict[str, Any]:
        """Cordon and evict; return the module's result. Raises NodeError."""
        node = self.node()
        if is_cordoned(node) and not cordoned_for(node):
            return {"changed": False, "left": "somebody has cordoned it"}
        if self.check:
            return {"changed": True, "left": ""}
        # The annotation first: a stop between the two leaves a node that takes pods, never a cordon that is nobody's.
        mark = f"{CORDONED}={self.version}"
        what = f"node {self.name} cannot be annotated"
        self.kubectl.must(what, "annotate", "node", self.name, "--overwrite", mark)
        arguments = ["drain", self.name, "--ignore-daemonsets", "--force", f"--timeout={self.seconds}s"]
        if self.emptydir:
            arguments.append("--delete-emptydir-data")
        done = self.kubectl.run(*arguments, timeout_seconds=self.seconds + _SPARE_SECONDS)
        if done.status != 0:
            self.uncordon()
            raise NodeError(drain.why(self.name, done.said, done.last_line, self.budgets(done.said)))
        return {"changed": True, "left": ""}

    def budgets(self, said: str) -> list[str]:
        """Return the disruption budgets that held a pod of the node; what cannot be asked is not named."""
        pods = drain.held(said)
        listed = self.kubectl.run("get", "poddisruptionbudgets", "--all-namespaces", "--output=json")
        if not pods or listed.status != 0:
            return []
        labels = {}
        for namespace, name in pods:
            one = self.kubectl.run("--namespace", namespace, "get", "pod", name, "--output=json")
            if one.status == 0:
                labels[namespace, name] = json.loads(one.output)["metadata"].get("labels") or {}
        return drain.budgets(pods, labels, json.loads(listed.output)["items"])

    def returned(self) -> dict[str, Any]:
        """Wait and uncordon; return the module's result. Raises NodeError."""
        if self.check:
            return {"changed": bool(cordoned_for(self.node())), "left": ""}
        deadline = time.monotonic() + self.seconds
        while said := self.trouble():
            if time.monotonic() > deadline:
                raise NodeError(
                    f"node {self.name} {said} after {self.seconds} s; it stays cordoned, 'journalctl -u kubelet' there "
                    "says more, and this run again goes on from here"
                )
            time.sleep(_POLL_SECONDS)
        node = self.node()
        if not cordoned_for(node):
            return {"changed": False, "left": "somebody has cordoned it" if is_cordoned(node) else ""}
        self.uncordon()
        return {"changed": True, "left": ""}

    def trouble(self) -> str:
        """Return what the node is not yet; an API server that does not answer just now is waited for, too."""
        try:
            status = self.node().get("status", {})
        except NodeError as error:
            return f"cannot be asked for ({error})"
        found = status.get("nodeInfo", {}).get("kubeletVersion", "")
        if not found or str(versions.parse(found)) != self.version:
            return f"has kubelet {found or 'unknown'} instead of {self.version}"
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
        return "" if ready else "is not ready"


def is_cordoned(node: dict[str, Any]) -> bool:
    """Return whether the node takes no pods."""
    return bool(node.get("spec", {}).get("unschedulable"))


def cordoned_for(node: dict[str, Any]) -> str:
    """Return the version that an upgrade has cordoned the node for; empty when none has."""
    return str((node["metadata"].get("annotations") or {}).get(CORDONED, ""))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "returned"], "required": True},
            "version": {"type": "str", "required": True},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
            "kubectl": {"type": "str", "default": "kubectl"},
            "timeout": {"type": "int", "default": 600},
            "delete_emptydir_data": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        rest = Rest(module)
        result = rest.drained() if module.params["state"] == "drained" else rest.returned()
    except NodeError as error:
        module.fail_json(msg=f"upgrade: {error}")
    did = f"node {module.params['name']} {module.params['state']}\n" if result["changed"] else ""
    module.exit_json(diff={"before": "", "after": did}, **result)


if __name__ == "__main__":
    main()
