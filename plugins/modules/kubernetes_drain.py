#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_drain
short_description: Move the pods off a node and take the node out of its cluster
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. Cordons the node, evicts its pods so that PodDisruptionBudgets count,
    and deletes it. A node that is not there is fine.
  - A node whose machine id is another than the given one is somebody else's with the same name, and refused.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether the node would be taken out.
    support: full
  diff_mode:
    description: Shows the node.
    support: full
options:
  name:
    description: The node's name.
    type: str
    required: true
  machine_id:
    description: The machine id of the host that leaves.
    type: str
    required: true
  kubeconfig:
    description: Credentials that may evict pods and delete nodes.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
  timeout:
    description: Seconds that the eviction may take. Then the node stays, cordoned no longer, and the task fails.
    type: int
    default: 600
  delete_emptydir_data:
    description: Whether pods may go that keep data in the node's own temporary directories.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Take the node out
  vllmd.platform.kubernetes_drain:
    name: gpu-01
    machine_id: "{{ host.machine_id }}"
    kubeconfig: /etc/kubernetes/admin.conf
  delegate_to: control-plane-01
"""

RETURN = r"""
found:
  description: Whether the node was there.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.names import node_name
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

_SPARE_SECONDS = 60


def take_out(module: AnsibleModule) -> bool:
    """Drain and delete; return whether the node was there. Raises NodeError."""
    given = module.params
    name = node_name(given["name"])
    kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
    node = kubectl.node(name)
    if node is None:
        return False
    machine = node.get("status", {}).get("nodeInfo", {}).get("machineID", "")
    if machine and machine != given["machine_id"]:
        raise NodeError(
            f"node {name} is another machine ({machine}) than this host ({given['machine_id']}); give "
            f"this host's own node "
            "name (kubernetes_node_name)"
        )
    if module.check_mode:
        return True
    was_cordoned = bool(node.get("spec", {}).get("unschedulable"))
    arguments = ["drain", name, "--ignore-daemonsets", "--force", "--timeout", f"{given['timeout']}s"]
    if given["delete_emptydir_data"]:
        arguments.append("--delete-emptydir-data")
    drained = kubectl.run(*arguments, timeout_seconds=given["timeout"] + _SPARE_SECONDS)
    if drained.status != 0:
        if not was_cordoned:
            kubectl.run("uncordon", name)
        raise NodeError(
            f"node {name} cannot be drained: {drained.last_line}; it stays in the cluster. Look at its pods and their "
            "disruption budgets, or give it more time (kubernetes_node_drain_timeout)"
        )
    kubectl.must(f"node {name} cannot be deleted", "delete", "node", name, "--ignore-not-found")
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "machine_id": {"type": "str", "required": True},
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
            "timeout": {"type": "int", "default": 600},
            "delete_emptydir_data": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        found = take_out(module)
    except NodeError as error:
        module.fail_json(msg=f"leave: {error}")
    module.exit_json(
        changed=found, found=found, diff={"before": f"node {module.params['name']}\n" if found else "", "after": ""}
    )


if __name__ == "__main__":
    main()
