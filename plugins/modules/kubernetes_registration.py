#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_registration
short_description: Register what a node of a cluster is given, or that it left
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. Writes the node's record, a ConfigMap in namespace
    C(vllmd-registration), which role control_plane_controller approves the node's certificates by.
  - Neither a bootstrap token nor a node can read or write it.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether the record would change.
    support: full
  diff_mode:
    description: Shows the record.
    support: full
options:
  state:
    description: V(present) registers the node, V(left) strikes it off; nothing is approved for it any more then.
    type: str
    choices: [present, left]
    default: present
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
  token_id:
    description: The id of the bootstrap token that it is given. Empty, the record keeps the one that it has.
    type: str
    default: ""
  minutes:
    description: How long it may ask for the first time; 0 sets no end, or keeps the one that the record has.
    type: int
    default: 0
  kubeconfig:
    description: Credentials that may make a namespace and ConfigMaps.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
seealso:
  - module: vllmd.platform.kubernetes_token
"""

EXAMPLES = r"""
- name: Register a virtual machine that joins by itself, from its config image
  vllmd.platform.kubernetes_registration:
    name: guest-01
    addresses: [10.0.7.21]
    token_id: "{{ made.id }}"
    minutes: 60
    kubeconfig: /etc/kubernetes/admin.conf
"""

RETURN = r"""
record:
  description: The record's texts, C(identity), C(use), C(allowance), each JSON.
  returned: success
  type: dict
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.names import node_name
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import records, store


def wanted(before: records.Record | None, given: dict[str, Any]) -> records.Record | None:
    """Return the record as it is to be, None where there is none to change. Raises RecordError, NodeError."""
    now = datetime.now(UTC)
    if given["state"] == "left":
        return records.struck_off(before, now) if before else None
    identity = records.Identity(
        node=node_name(given["name"]),
        machine_id=given["machine_id"],
        addresses=tuple(given["addresses"]),
        names=tuple(given["names"]),
        token_id=given["token_id"],
        valid_until=records.rfc3339(now + timedelta(minutes=given["minutes"])) if given["minutes"] else "",
    )
    return records.registered(before, identity)


def main() -> None:
    """Run the module."""
    text = {"type": "str", "default": ""}
    strings = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "left"], "default": "present"},
            "name": {"type": "str", "required": True},
            "machine_id": text,
            "addresses": strings,
            "names": strings,
            # The id of a token is no secret.
            "token_id": {**text, "no_log": False},
            "minutes": {"type": "int", "default": 0},
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given = module.params
    place = store.Store(Kubectl(given["kubectl"], given["kubeconfig"]))
    try:
        found = place.read(node_name(given["name"]))
        after = wanted(found.record, given)
        before = records.written(found.record) if found.record else {}
        data = records.written(after) if after else {}
        if data != before and after is not None and not module.check_mode:
            place.write(found, after)
    except (NodeError, records.RecordError) as error:
        module.fail_json(msg=f"registration: {error}")
    shown = [json.dumps(each, indent=2, sort_keys=True) + "\n" if each else "" for each in (before, data)]
    module.exit_json(changed=data != before, record=data, diff={"before": shown[0], "after": shown[1]})


if __name__ == "__main__":
    main()
