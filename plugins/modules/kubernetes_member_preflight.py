#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_member_preflight
short_description: Say what a host is to a control plane, and why it cannot be a member
version_added: 0.1.0
description:
  - Reads the host and changes nothing. All reasons are found in one call.
  - A virtual address that nobody in the network should have is asked for with one datagram.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Nothing is changed anyway.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  state:
    description: What the host is to be.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: The node's name; empty for the host's own.
    type: str
    default: ""
  address:
    description: The member's own address; empty for the one that its default route goes out from.
    type: str
    default: ""
  port:
    description: The port of its API server.
    type: int
    default: 6443
  virtual_address:
    description: The address that the members share; empty for none.
    type: str
    default: ""
  balancer_port:
    description: The port of that address.
    type: int
    default: 8443
"""

EXAMPLES = r"""
- name: Look at the host
  vllmd.platform.kubernetes_member_preflight:
    address: 10.0.0.11
    virtual_address: 10.0.0.10
"""

RETURN = r"""
is_member:
  description: Whether it is a member.
  returned: success
  type: bool
address:
  description: The member's own address.
  returned: success
  type: str
machine_id:
  description: The host's machine id.
  returned: success
  type: str
interface:
  description: The network interface that has it.
  returned: success
  type: str
name:
  description: The node's name.
  returned: success
  type: str
ca_pins:
  description: The pins of the cluster's CA as this host has it.
  returned: success
  type: list
  elements: str
holds_virtual_address:
  description: Whether the virtual address is on this host now.
  returned: success
  type: bool
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import assembling, members, membership, names
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.host_state import read_state
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import run

ROOT = Path("/")
_ARP_SECONDS = 1.5
#: How the role's template of HAProxy's configuration begins.
_OURS = "# Made by role runtime_controller"


def addresses() -> dict[str, str]:
    """Return the host's IPv4 and IPv6 addresses with the interface of each. Raises NodeError."""
    shown = json.loads(run(["ip", "-json", "address"], timeout_seconds=30).output or "[]")
    return {entry["local"]: link["ifname"] for link in shown for entry in link.get("addr_info", []) if "local" in entry}


def default_source() -> str:
    """Return the address that the default route goes out from, empty without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: nothing is sent
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def is_taken(address: str) -> bool:
    """Return whether somebody in this network answers for the address (ARP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.sendto(b"", (address, 9))
        except OSError:
            return False
    deadline = time.monotonic() + _ARP_SECONDS
    while time.monotonic() < deadline:
        if members.is_resolved((ROOT / "proc/net/arp").read_text(encoding="ascii"), address):
            return True
        time.sleep(0.1)
    return False


def has_balancer() -> bool:
    """Return whether HAProxy's configuration is the role's."""
    path = ROOT / "etc/haproxy/haproxy.cfg"
    return path.exists() and path.read_text(encoding="utf-8", errors="replace").startswith(_OURS)


def look(given: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return what the host is, and add to ``problems``. Raises NodeError, OSError."""
    state = read_state(ROOT, [], [])
    local = addresses()
    address = given["address"] or default_source()
    virtual = given["virtual_address"]
    result: dict[str, Any] = {
        "name": names.node_name(given["name"] or state.hostname),
        "machine_id": state.machine_id,
        "address": address,
        "interface": local.get(address, ""),
        "holds_virtual_address": virtual in local,
        "is_member": False,
        "ca_pins": [],
    }
    if given["state"] == "absent":
        has_member_files = (ROOT / membership.MEMBER_FILES[3]).exists()
        return {**result, "is_member": has_member_files, "ca_pins": assembling.pinned() if has_member_files else []}
    try:
        result["is_member"] = membership.state(ROOT) == "member"
        result["ca_pins"] = assembling.pinned() if result["is_member"] else []
        is_new = membership.state(ROOT) in ("none", "prepared")
    except NodeError as error:
        problems.append(str(error))
        is_new = False
    problems += members.problems(
        members.Host(
            address=address, local=tuple(local), listening=state.listening, is_new=is_new, has_balancer=has_balancer()
        ),
        port=given["port"],
        virtual_address=virtual,
        balancer_port=given["balancer_port"],
    )
    if virtual and is_new and not problems and virtual not in local and is_taken(virtual):
        result["sees_virtual_address"] = True
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str", "default": ""},
            "address": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 6443},
            "virtual_address": {"type": "str", "default": ""},
            "balancer_port": {"type": "int", "default": 8443},
        },
        supports_check_mode=True,
    )
    problems: list[str] = []
    result: dict[str, Any] = {"sees_virtual_address": False}
    try:
        result.update(look(module.params, problems))
    except NodeError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"cannot read {error.filename}: {error.strerror}; run this as root")
    if problems:
        module.fail_json(
            msg="\n".join(["this host cannot be a member of the control plane:", *problems]), problems=problems
        )
    module.exit_json(changed=False, problems=[], **result)


if __name__ == "__main__":
    main()
