#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_upgrade
short_description: Plan the upgrade of a cluster, and keep a record of how far it came
version_added: 0.1.0
description:
  - Runs on a member of the control plane. The plan comes from what the API server says, so that an upgrade which was
    interrupted goes on where it was; the record says which one is under way, and what was done when.
  - Refuses, in one line, what would go back, skip a minor version, or leave a kubelet that does not go together with
    the new API servers; and everything while an authority of the cluster is being replaced.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Plans and refuses as always, and writes no record.
    support: full
  diff_mode:
    description: Shows what the record gets.
    support: full
options:
  state:
    description:
      - V(planned) plans. V(begun) notes that the upgrade is under way, V(noted) that O(step) was taken on O(node),
        V(ended) that it has come to its end. V(aborted) forgets it, and lets the nodes it cordoned take pods again.
    type: str
    choices: [planned, begun, noted, ended, aborted]
    default: planned
  version:
    description: The version to upgrade to, all three parts. Required unless O(state=aborted).
    type: str
    default: ""
  hosts:
    description: The hosts of this run, node's name to inventory's name, in the order of the inventory.
    type: dict
    default: {}
  batch:
    description: How many nodes are upgraded at once, a number or a share such as V(10%).
    type: str
    default: "1"
  node:
    description: A node's name. For O(state=noted).
    type: str
    default: ""
  step:
    description: What was done. For O(state=noted).
    type: str
    default: ""
  record:
    description: File of the record.
    type: path
    default: /var/lib/vllmd/runtime-controller/upgrade.json
  kubeconfig:
    description: An administrator's credentials.
    type: path
    default: /etc/kubernetes/admin.conf
  kubectl:
    description: The program.
    type: str
    default: kubectl
"""

EXAMPLES = r"""
- name: Plan
  vllmd.platform.kubernetes_upgrade:
    version: 1.33.1
    hosts: {control-1: control-1, gpu-1: gpu-1}
    batch: 10%
"""

RETURN = r"""
members:
  description: >-
    Members of the control plane that are upgraded, in this order, each with C(host), C(node), C(control_plane)
    (V(apply), V(node) or empty), C(kubelet) and C(drain).
  returned: when O(state=planned)
  type: list
  elements: dict
nodes:
  description: The other nodes, in their order, with the same fields.
  returned: when O(state=planned)
  type: list
  elements: dict
size:
  description: How many of them are upgraded at once.
  returned: when O(state=planned)
  type: int
lines:
  description: The plan for a person.
  returned: when O(state=planned)
  type: list
  elements: str
returned:
  description: Nodes that take pods again.
  returned: when O(state=aborted)
  type: list
  elements: str
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import layout, rotation
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade import cluster, plan

#: Where this host keeps a rotation of one of the cluster's authorities; gone when it has ended.
ROTATION = Path("/") / layout.ROTATION


def check_rotation() -> None:
    """Refuse to plan while an authority is being replaced: kubeadm would write anew what is in the middle of it.

    Raises NodeError, OSError.
    """
    if not ROTATION.exists():
        return
    kept = ROTATION / "member.json"
    authority = rotation.record(kept.read_bytes(), str(kept)).authority if kept.exists() else "kubernetes"
    again = f"playbooks/rotate.yml -e rotate_authority={authority}"
    raise NodeError(
        f"authority {authority} is being replaced ({ROTATION} is there), and kubeadm would write manifests and "
        f"certificates anew in the middle of it; finish that with {again}, or take it back with {again} "
        "-e rotate_until=old"
    )


def load(path: Path) -> dict[str, Any]:
    """Return the record; empty when no upgrade is under way. Raises NodeError, OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and isinstance(found.get("version"), str) and isinstance(found.get("steps"), list):
            return found
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    raise NodeError(f"{path} cannot be read as the record of an upgrade; see what it says, and remove it")


def save(path: Path, record: dict[str, Any]) -> None:
    """Write the record. Raises OSError."""
    atomic.make_directory(path.parent)
    atomic.write_file(path, (json.dumps(record, indent=2) + "\n").encode(), 0o600)


def look(kubectl: Kubectl) -> cluster.Cluster:
    """Return the cluster as it is. Raises NodeError."""

    def ask(*arguments: str) -> str:
        what = "the API server does not answer, and without it nothing is upgraded"
        return kubectl.must(what, *arguments, "--request-timeout=30s")

    nodes = json.loads(ask("get", "nodes", "--output=json"))
    pods = json.loads(ask("--namespace=kube-system", "get", "pods", "--selector=tier=control-plane", "--output=json"))
    path = "jsonpath={.data.ClusterConfiguration}"
    text = ask("--namespace=kube-system", "get", "configmap", "kubeadm-config", f"--output={path}")
    return cluster.read(nodes, pods, text)


def make_plan(given: dict[str, Any], kubectl: Kubectl) -> dict[str, Any]:
    """Return the module's result for a plan. Raises NodeError, OSError."""
    check_rotation()
    target = versions.parse(given["version"], "upgrade_version")
    hosts = {str(node): str(host) for node, host in given["hosts"].items()}
    found, record = look(kubectl), load(Path(given["record"]))
    begun = str(record.get("version", ""))
    refused = plan.refusals(found, target, hosts, begun)
    if refused:
        raise NodeError("; ".join(refused))
    made = plan.make(found, target, hosts, list(hosts.values()), given["batch"])
    return {
        "changed": False,
        "members": [asdict(step) for step in made.members],
        "nodes": [asdict(step) for batch in made.batches for step in batch],
        "size": max((len(batch) for batch in made.batches), default=1),
        "lines": plan.lines(made, found.version, target),
    }


def abort(module: AnsibleModule, kubectl: Kubectl) -> dict[str, Any]:
    """Forget the upgrade, and let its nodes take pods again; return the module's result. Raises NodeError, OSError."""
    path = Path(module.params["record"])
    nodes = [node.name for node in look(kubectl).nodes if node.cordoned_for]
    changed = bool(nodes) or path.exists()
    if not module.check_mode:
        for name in nodes:
            kubectl.must(f"node {name} cannot be uncordoned", "uncordon", name)
            kubectl.must(f"node {name} cannot be annotated", "annotate", "node", name, f"{cluster.CORDONED}-")
        path.unlink(missing_ok=True)
    return {"changed": changed, "returned": nodes}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["planned", "begun", "noted", "ended", "aborted"],
                "default": "planned",
            },
            "version": {"type": "str", "default": ""},
            "hosts": {"type": "dict", "default": {}},
            "batch": {"type": "str", "default": "1"},
            "node": {"type": "str", "default": ""},
            "step": {"type": "str", "default": ""},
            "record": {"type": "path", "default": "/var/lib/vllmd/runtime-controller/upgrade.json"},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given, state = module.params, module.params["state"]
    kubectl, path = Kubectl(given["kubectl"], given["kubeconfig"]), Path(given["record"])
    try:
        if state == "planned":
            module.exit_json(**make_plan(given, kubectl))
        if state == "aborted":
            module.exit_json(**abort(module, kubectl))
        version, record = str(versions.parse(given["version"], "upgrade_version")), load(path)
        before = json.dumps(record, indent=2)
        if state == "begun":
            record = record or {"version": version, "begun": int(time.time()), "steps": []}
        elif state == "noted":
            record = record or {"version": version, "begun": int(time.time()), "steps": []}
            record["steps"].append({"node": given["node"], "step": given["step"], "at": int(time.time())})
        else:
            record = {}
        after = json.dumps(record, indent=2)
        if not module.check_mode:
            if record:
                save(path, record)
            elif path.exists():
                # What was done stays to be read; it is of an upgrade that has ended.
                path.replace(path.with_name("upgrade-ended.json"))
    except NodeError as error:
        module.fail_json(msg=f"upgrade: {error}")
    except OSError as error:
        module.fail_json(msg=f"upgrade: {error.filename}: {error.strerror}")
    module.exit_json(changed=before != after, diff={"before": f"{before}\n", "after": f"{after}\n"})


if __name__ == "__main__":
    main()
