#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_token
short_description: Make a short-lived token that one node joins a cluster with, and revoke it
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. The token is in no argument of a program and in no file.
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
  kubeconfig:
    description: Credentials that may make secrets in kube-system.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
"""

EXAMPLES = r"""
- name: Make a token
  vllmd.platform.kubernetes_token:
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
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import tokens
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

_LONGEST_MINUTES = 24 * 60
_SIGN_SECONDS = 30


def wait_signed(kubectl: Kubectl, identity: str) -> None:
    """Wait until the cluster has signed its announcement with the token, as kubeadm would. Raises NodeError."""
    deadline = time.monotonic() + _SIGN_SECONDS
    while True:
        arguments = ("get", "configmap", "cluster-info", "--namespace", "kube-public", "--output", "json")
        done = kubectl.run(*arguments)
        if done.status == 0 and f"jws-kubeconfig-{identity}" in json.loads(done.output).get("data", {}):
            return
        if time.monotonic() > deadline:
            raise NodeError(
                f"after {_SIGN_SECONDS} s the cluster has not signed kube-public/cluster-info with the "
                f"new token; does its "
                "controller manager run with the controller bootstrapsigner?"
            )
        time.sleep(0.2)


def make(kubectl: Kubectl, given: dict[str, Any]) -> str:
    """Return a new token that the cluster knows. Raises NodeError."""
    token = tokens.generate()
    identity = token.partition(".")[0]
    expires = datetime.now(UTC) + timedelta(minutes=given["minutes"])
    document = json.dumps(tokens.secret(token, given["description"], expires))
    kubectl.must("cannot make a bootstrap token", "create", "--filename", "-", stdin=document)
    try:
        wait_signed(kubectl, identity)
    except NodeError:
        revoke(kubectl, identity)
        raise
    return token


def revoke(kubectl: Kubectl, identity: str) -> bool:
    """Revoke the token ``identity``; return whether it was there. Raises NodeError."""
    what = f"cannot revoke the bootstrap token {identity}"
    name = tokens.secret_name(tokens.token_id(identity))
    arguments = ("delete", "secret", name, "--namespace", tokens.NAMESPACE, "--ignore-not-found")
    return bool(kubectl.must(what, *arguments).strip())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "id": {"type": "str", "default": ""},
            "description": {"type": "str", "default": ""},
            "minutes": {"type": "int", "default": 15},
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
    except NodeError as error:
        module.fail_json(msg=f"token: {error}")
    module.exit_json(changed=True, token=token, id=token.partition(".")[0])


if __name__ == "__main__":
    main()
