#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_rotation_cluster
short_description: Let a cluster announce the authorities that are believed at a position of their rotation
version_added: 0.1.0
description:
  - Runs on a host of the control plane where a rotation of the cluster's authority is under way.
  - Writes what joining nodes are told (C(kube-public/cluster-info)), waits until the controller manager has published
    the same to all namespaces (C(kube-root-ca.crt)) and to older service accounts' tokens, and replaces the pods that
    read it when they start.
  - Refuses to go on while the cluster has nodes that nobody rotates.
author:
  - vllmd.platform maintainers (@vllmd)
requirements:
  - cryptography
  - PyYAML
attributes:
  check_mode:
    description: Says what would be done, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the same, line by line.
    support: full
options:
  position:
    description: The position that the control plane has reached.
    type: str
    choices: [old, trust, swap, new]
    required: true
  nodes:
    description: The cluster's nodes that are rotated, by name; and those that need not be, since they join again.
    type: list
    elements: str
    required: true
  reachable:
    description: Nodes whose kubelets the API server must reach with its own certificate.
    type: list
    elements: str
    default: []
  namespaces:
    description: Namespaces whose workloads are restarted, since they talk to the API server.
    type: list
    elements: str
    default: [kube-system]
  kubeconfig:
    description: An administrator's.
    type: path
    default: /etc/kubernetes/admin.conf
  kubectl:
    description: The program.
    type: str
    default: kubectl
  timeout:
    description: Seconds for each wait.
    type: int
    default: 330
"""

EXAMPLES = r"""
- name: Announce both authorities
  vllmd.platform.kubernetes_rotation_cluster:
    position: trust
    nodes: [control-plane-01, gpu-01, gpu-02]
"""

RETURN = r"""
lines:
  description: What was done, or with check mode would be.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import (
    certificates,
    cluster,
    libraries,
    rotation,
    store,
)

ROOT = Path("/")


def check_nodes(kubectl: Kubectl, managed: list[str]) -> None:
    """Raise NodeError when the cluster has nodes that would lose it."""
    strange = sorted(set(cluster.nodes(kubectl)) - set(managed))
    if strange:
        raise NodeError(
            f"nobody rotates {', '.join(strange)}, which would lose the cluster: add them to the inventory, or name "
            "them in rotate_replaced_nodes if they join again with the new pin"
        )


def bring(given: dict[str, Any], check: bool) -> list[str]:
    """Do it; return what was done. Raises NodeError, OSError."""
    kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
    check_nodes(kubectl, given["nodes"])
    under_way = store.read(ROOT, "member")
    if under_way is None:
        if check:
            return [f"announce and publish what is believed at {given['position']}"]
        raise NodeError("no rotation has begun on this host")
    pem, lines = under_way.believed(given["position"]), []
    who = " and ".join(rotation.believed(given["position"]))
    wanted = [certificates.pin(each) for each in certificates.parse(pem, "believed")]
    announced = cluster.announced(kubectl)
    if announced and [certificates.pin(each) for each in certificates.parse(announced, "cluster-info")] != wanted:
        lines.append(f"kube-public/cluster-info announces {who}")
        if not check:
            cluster.announce(kubectl, pem)
    if check:
        return lines
    if cluster.published(kubectl, pem):
        cluster.await_published(kubectl, pem, given["timeout"])
        lines.append(f"pods are told of {who}")
    restarted = under_way.directory / "workloads-restarted"
    if given["position"] == "trust" and not restarted.exists():
        replaced = cluster.restart_workloads(kubectl, given["namespaces"], given["timeout"])
        lines.extend(f"restart {name}" for name in replaced)
        restarted.touch(mode=0o600)
    cluster.await_reachable(kubectl, given["reachable"], given["timeout"])
    return lines


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "position": {"type": "str", "choices": ["old", "trust", "swap", "new"], "required": True},
            "nodes": {"type": "list", "elements": "str", "required": True},
            "reachable": {"type": "list", "elements": "str", "default": []},
            "namespaces": {"type": "list", "elements": "str", "default": ["kube-system"]},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
            "kubectl": {"type": "str", "default": "kubectl"},
            "timeout": {"type": "int", "default": 330},
        },
        supports_check_mode=True,
    )
    if missing := libraries.missing():
        module.fail_json(msg=missing_required_lib(missing))
    try:
        lines = bring(module.params, module.check_mode)
    except NodeError as error:
        module.fail_json(msg=f"rotation: {error}")
    except OSError as error:
        module.fail_json(msg=f"rotation: {error.filename}: {error.strerror}")
    diff = {"before": "", "after": "".join(f"{line}\n" for line in lines)}
    module.exit_json(changed=bool(lines), lines=lines, diff=diff)


if __name__ == "__main__":
    main()
