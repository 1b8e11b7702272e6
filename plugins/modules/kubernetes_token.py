#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_token
short_description: Make a short-lived token that one node joins a cluster with, register the node, and revoke it
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. The token is in no argument of a program and in no file.
  - Does not wait for the cluster to sign its announcement with it, which C(kubeadm join) waits for.
  - Register the result of a task that makes one with C(no_log).
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Makes a token that nobody knows, and revokes none.
    support: full
  diff_mode:
    description: There is nothing to show of a secret.
    support: none
options:
  state:
    description: V(present) makes a new token each time, V(absent) revokes one.
    type: str
    choices: [present, absent]
    default: present
  id:
    description: The id of the token to revoke, its first six characters.
    type: str
    default: ""
  description:
    description: What it is for; shown by C(kubeadm token list).
    type: str
    default: ""
  minutes:
    description: How long it can be used.
    type: int
    default: 15
  node:
    description: The node that it is for, registered before it can be used. Left out, nothing is registered.
    type: dict
    suboptions:
      name:
        description: The node's name.
        type: str
        required: true
      machine_id:
        description: The machine id of its host. Empty, that of the first Node of this name is kept.
        type: str
        default: ""
      addresses:
        description: IP addresses that its serving certificate may name.
        type: list
        elements: str
        default: []
      names:
        description: DNS names that it may name besides the node's.
        type: list
        elements: str
        default: []
  kubeconfig:
    description: Credentials that may make secrets in kube-system, and for O(node) a namespace and ConfigMaps.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
seealso:
  - module: vllmd.platform.kubernetes_registration
"""

EXAMPLES = r"""
- name: Make a token
  vllmd.platform.kubernetes_token:
    node: {name: gpu-01, addresses: [10.0.0.21]}
    kubeconfig: /etc/kubernetes/admin.conf
  register: made
  no_log: true

- name: Revoke it
  vllmd.platform.kubernetes_token:
    state: absent
    id: "{{ made.id }}"
    kubeconfig: /etc/kubernetes/admin.conf
"""

RETURN = r"""
token:
  description: The token.
  returned: with O(state=present)
  type: str
id:
  description: Its id, which is no secret.
  returned: success
  type: str
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import tokens
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.names import node_name
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import records, store

_LONGEST_MINUTES = 24 * 60


def make(kubectl: Kubectl, given: dict[str, Any]) -> str:
    """Return a new token, and register the node that it is for. Raises NodeError, RecordError."""
    token = tokens.generate()
    expires = datetime.now(UTC) + timedelta(minutes=given["minutes"])
    node = given["node"]
    if node:
        identity = records.Identity(
            node=node_name(node["name"]),
            machine_id=node["machine_id"],
            addresses=tuple(node["addresses"]),
            names=tuple(node["names"]),
            token_id=token.partition(".")[0],
            valid_until=records.rfc3339(expires),
        )
        place = store.Store(kubectl)
        found = place.read(identity.node)
        place.write(found, records.registered(found.record, identity))
    document = json.dumps(tokens.secret(token, given["description"], expires))
    kubectl.must("cannot make a bootstrap token", "create", "--filename", "-", stdin=document)
    return token


def revoke(kubectl: Kubectl, identity: str) -> bool:
    """Revoke the token ``identity``; return whether it was there. Raises NodeError."""
    what = f"cannot revoke the bootstrap token {identity}"
    name = tokens.secret_name(tokens.token_id(identity))
    arguments = ("delete", "secret", name, "--namespace", tokens.NAMESPACE, "--ignore-not-found")
    return bool(kubectl.must(what, *arguments).strip())


def main() -> None:
    """Run the module."""
    strings = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "id": {"type": "str", "default": ""},
            "description": {"type": "str", "default": ""},
            "minutes": {"type": "int", "default": 15},
            "node": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "machine_id": {"type": "str", "default": ""},
                    "addresses": strings,
                    "names": strings,
                },
            },
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        required_if=[("state", "absent", ["id"])],
        supports_check_mode=True,
    )
    given = module.params
    kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
    if not 1 <= given["minutes"] <= _LONGEST_MINUTES:
        module.fail_json(msg=f"token: minutes {given['minutes']}; allowed: 1 to {_LONGEST_MINUTES}")
    try:
        if given["state"] == "absent":
            changed = True if module.check_mode else revoke(kubectl, given["id"])
            module.exit_json(changed=changed, id=given["id"])
        token = tokens.generate() if module.check_mode else make(kubectl, given)
    except (NodeError, records.RecordError) as error:
        module.fail_json(msg=f"token: {error}")
    module.exit_json(changed=True, token=token, id=token.partition(".")[0])


if __name__ == "__main__":
    main()
