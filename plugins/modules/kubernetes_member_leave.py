#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_member_leave
short_description: Take a host out of a Kubernetes control plane
version_added: 0.1.0
description:
  - Takes the host's member out of etcd first, so that the others go on, and resets the host then.
  - Refused while another member does not answer, because the rest could decide nothing; and for the last member, unless
    its name is given.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether the host would leave, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the member.
    support: full
options:
  step:
    description: V(check) only finds out whether the host may leave, V(leave) lets it.
    type: str
    choices: [check, leave]
    default: leave
  name:
    description: The node's name, which is the member's in etcd.
    type: str
    required: true
  confirm_last:
    description: The same name, if it is the last member.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Leave
  vllmd.platform.kubernetes_member_leave:
    name: control-03
"""

RETURN = r"""
is_last:
  description: Whether no other member is left.
  returned: success
  type: bool
"""

import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import (
    assembling,
    etcd_members,
    membership,
    names,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError

ROOT = Path("/")
LOCK = Path("/run/lock/vllmd-kubernetes-node.lock")
#: What shows that there is something to take away.
TRACES = (membership.MARKER, *membership.MEMBER_FILES, "var/lib/etcd/member")


def has_left_etcd() -> bool:
    """Return whether an earlier run has taken the member out already, or it never came in."""
    marker = ROOT / membership.MARKER
    if marker.exists():
        return marker.read_text(encoding="ascii").strip() in ("leave", "init")
    return not (ROOT / "etc/kubernetes/manifests/etcd.yaml").exists()


def leave(module: AnsibleModule, given: dict[str, Any]) -> dict[str, Any]:
    """Do the step; return the module's result. Raises NodeError, OSError, locks.LockedError."""
    name = names.node_name(given["name"])
    there = [f"/{path}" for path in TRACES if (ROOT / path).exists() and path != "etc/kubernetes/pki/ca.crt"]
    if not there:
        return {"changed": False, "is_last": False}
    is_last, is_out = True, has_left_etcd()
    if not is_out:
        members = etcd_members.listed()
        trouble = etcd_members.why_not(members, name, etcd_members.healthy(), given["confirm_last"])
        if trouble:
            raise NodeError(trouble)
        is_last = len(members) == 1
    result = {
        "changed": given["step"] == "leave",
        "is_last": is_last,
        "diff": {"before": f"member {name}\n", "after": ""},
    }
    if module.check_mode or given["step"] == "check":
        return result
    with locks.exclusive(LOCK, "joining or leaving a cluster"):
        if not is_out and not is_last:
            etcd_members.remove(name)
        membership.begin(ROOT, "leave")
        if shutil.which("kubeadm") is None:
            raise NodeError(f"kubeadm is not installed and {there[0]} is there; install it, or remove that by hand")
        assembling.reset("the host cannot be reset")
        membership.end(ROOT)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["check", "leave"], "default": "leave"},
            "name": {"type": "str", "required": True},
            "confirm_last": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        result = leave(module, module.params)
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"leave: {error}")
    except OSError as error:
        module.fail_json(msg=f"leave: {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
