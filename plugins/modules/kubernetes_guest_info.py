#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_guest_info
short_description: Ask a cluster how far a virtual machine has come that joins it by itself
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is, and changes nothing.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Changes nothing in any case.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  name:
    description: The name of its node.
    type: str
    required: true
  machine_id:
    description: Its machine id. A ready node of this name on another machine is refused.
    type: str
    required: true
  token_id:
    description: The id of the bootstrap token on its config image, empty for none.
    type: str
    default: ""
  wait:
    description:
      - Seconds until it must be a member, and with O(token_id) have used that token; 0 looks once. A denied certificate
        ends the wait.
    type: int
    default: 0
  patience:
    description:
      - Seconds that its node gets to be ready again when it is there and is not ready just now. A busy host's kubelet
        can be late, and that is no reason to give its guest another token.
    type: int
    default: 0
  kubeconfig:
    description: Credentials that may read nodes, requests for certificates and what is registered.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
seealso:
  - module: vllmd.platform.kubernetes_token
  - module: vllmd.platform.kubernetes_registration
"""

EXAMPLES = r"""
- name: Wait until the guest has joined
  vllmd.platform.kubernetes_guest_info:
    name: guest-01
    machine_id: 5f1c1d0e6b0c5b0f9d5d8d6f3d1a2b3c
    token_id: "{{ made.id }}"
    wait: 600
    kubeconfig: /etc/kubernetes/admin.conf
"""

RETURN = r"""
member:
  description: Whether its node is ready, and has not left.
  returned: success
  type: bool
expected:
  description: Whether the token O(token_id) is registered for it, and was not used yet.
  returned: success
  type: bool
used:
  description: Whether a certificate was issued for the token O(token_id).
  returned: success
  type: bool
denied:
  description: Why none was issued; empty when nobody said no.
  returned: success
  type: str
"""

import json
import time
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.names import node_name
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import guests, records, store

_PAUSE_SECONDS = 2.0


def look(kubectl: Kubectl, given: dict[str, Any]) -> guests.Guest:
    """Return how far the guest has come. Raises NodeError, RecordError."""
    name = node_name(given["name"])
    arguments = ("get", "certificatesigningrequests", "--output", "json", "--request-timeout", "20s")
    requests = json.loads(kubectl.must("cannot read the requests for certificates", *arguments))["items"]
    record = store.Store(kubectl).read(name).record
    seen = guests.Seen(kubectl.node(name), record, requests)
    return guests.look(name, given["machine_id"], given["token_id"], seen, datetime.now(UTC))


def wait(kubectl: Kubectl, given: dict[str, Any]) -> guests.Guest:
    """Return how far the guest has come once it is a member. Raises NodeError, RecordError."""
    deadline = time.monotonic() + given["wait"]
    while True:
        found = look(kubectl, given)
        if found.is_member and (found.has_used or not given["token_id"]):
            return found
        if found.denied:
            raise NodeError(f"node {given['name']} has not joined: the cluster denied its certificate: {found.denied}")
        if time.monotonic() > deadline:
            told = "its node is not ready" if found.has_used else "it has not used its token"
            raise NodeError(
                f"node {given['name']} has not joined after {given['wait']} s: {told}; the guest's console says why"
            )
        time.sleep(_PAUSE_SECONDS)


def look_patiently(kubectl: Kubectl, given: dict[str, Any], seconds: int) -> guests.Guest:
    """Return how far the guest has come, after ``seconds`` at most for a silent node. Raises NodeError, RecordError."""
    deadline = time.monotonic() + seconds
    while (found := look(kubectl, given)).is_silent and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "machine_id": {"type": "str", "required": True},
            # The id of a token is no secret.
            "token_id": {"type": "str", "default": "", "no_log": False},
            "wait": {"type": "int", "default": 0},
            "patience": {"type": "int", "default": 0},
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given = module.params
    kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
    try:
        if given["wait"] and not module.check_mode:
            found = wait(kubectl, given)
        else:
            found = look_patiently(kubectl, given, 0 if module.check_mode else given["patience"])
    except (NodeError, records.RecordError) as error:
        module.fail_json(msg=f"guest: {error}")
    module.exit_json(
        changed=False, member=found.is_member, expected=found.is_expected, used=found.has_used, denied=found.denied
    )


if __name__ == "__main__":
    main()
