#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_component
short_description: Apply a component's manifests to a cluster, and wait until it is ready
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. The API server compares and applies the objects (server-side apply), so
    that what others have set in them stays.
  - Waits for each of O(wait), and says what it was waiting for when that does not come.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether something would be applied; waits for nothing.
    support: full
  diff_mode:
    description: Shows what C(kubectl diff) shows.
    support: full
options:
  name:
    description: What the component is called in messages.
    type: str
    required: true
  manifest:
    description: Its objects, YAML documents. Empty, the component is only waited for.
    type: str
    default: ""
  wait:
    description: What has to be ready, KIND/NAMESPACE/NAME, for crd and node KIND/NAME.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that all of them have; 0 does not wait.
    type: int
    default: 300
  kubeconfig:
    description: Credentials of an administrator.
    type: path
    default: /etc/kubernetes/admin.conf
  kubectl:
    description: The program.
    type: str
    default: kubectl
"""

EXAMPLES = r"""
- name: Give the cluster its network
  vllmd.platform.kubernetes_component:
    name: network
    manifest: "{{ lookup('ansible.builtin.file', 'cilium.yaml') }}"
    wait: [daemonset/kube-system/cilium]
"""

RETURN = r"""
applied:
  description: What kubectl said of each object that it applied.
  returned: success
  type: list
  elements: str
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import components
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

_MANAGER = ("--server-side", "--force-conflicts", "--field-manager=vllmd-runtime-controller")
_POLL_SECONDS = 1
_MISSING = ("not found", "NotFound", "no matches for kind")


def difference(kubectl: Kubectl, name: str, manifest: str) -> str | None:
    """Return what would change, None when nothing would. Raises NodeError."""
    done = kubectl.run("diff", *_MANAGER, "--filename", "-", stdin=manifest)
    if done.status == 0:
        return None
    # Objects of a namespace or kind that comes with the same manifest cannot be compared before it is there.
    if done.status == 1 or any(sign in done.said for sign in _MISSING):
        return done.output or f"{name}: objects that the cluster cannot compare before it has others of them\n"
    raise NodeError(f"component {name} cannot be compared with the cluster: {done.last_line}")


def apply(kubectl: Kubectl, name: str, manifest: str, deadline: float) -> list[str]:
    """Apply the manifest; what kubectl said. Waits until the deadline for a kind or namespace that it needs."""
    while True:
        done = kubectl.run("apply", *_MANAGER, "--filename", "-", stdin=manifest)
        if done.status == 0:
            return done.output.splitlines()
        if time.monotonic() > deadline or not any(sign in done.said for sign in _MISSING):
            raise NodeError(f"component {name} cannot be applied: {done.last_line}")
        time.sleep(_POLL_SECONDS)


def await_ready(kubectl: Kubectl, name: str, wanted: list[components.Wait], timeout: int, deadline: float) -> None:
    """Wait for all of them. Raises NodeError, which says for what and what was the matter."""
    for wait in wanted:
        while True:
            left = max(1, int(deadline - time.monotonic()))
            done = kubectl.run(*wait.arguments(left), timeout_seconds=left + 30)
            if done.status == 0:
                break
            if time.monotonic() > deadline:
                raise NodeError(f"component {name}: {wait} is not ready after {timeout} s: {done.last_line}")
            time.sleep(_POLL_SECONDS)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "manifest": {"type": "str", "default": ""},
            "wait": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 300},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given = module.params
    kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
    deadline = time.monotonic() + given["timeout"]
    result: dict[str, Any] = {"changed": False, "applied": []}
    if module.check_mode and not Path(given["kubeconfig"]).exists():
        module.exit_json(changed=bool(given["manifest"].strip()), applied=[])  # there is no cluster to ask yet
    try:
        wanted = [components.parse_wait(wait) for wait in given["wait"]]
        changes = difference(kubectl, given["name"], given["manifest"]) if given["manifest"].strip() else None
        if changes is not None:
            result = {"changed": True, "applied": [], "diff": {"prepared": changes}}
            if not module.check_mode:
                result["applied"] = apply(kubectl, given["name"], given["manifest"], deadline)
        if given["timeout"] and not module.check_mode:
            await_ready(kubectl, given["name"], wanted, given["timeout"], deadline)
    except NodeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
