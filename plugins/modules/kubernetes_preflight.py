#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_preflight
short_description: Say whether a host can be a node of a Kubernetes cluster, and what it can say of itself
version_added: 0.1.0
description:
  - Looks at swap, kernel modules and settings, ports, clock, names, machine id, product uuid, cgroups, and at whether
    the host is a node already; checks everything that is given to join with. Fails with one line for each problem.
  - What a role mends by itself is no problem, and returned.
  - Nothing is changed, and no program is started.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Nothing is ever changed.
    support: full
  diff_mode:
    description: Nothing is ever changed.
    support: none
options:
  state:
    description: What the host is to be. With V(left) only what it is now is returned.
    type: str
    choices: [joined, prepared, left]
    default: joined
  name:
    description: The node's name; empty means the host's own, in lower case.
    type: str
    default: ""
  version:
    description: The version of Kubernetes, such as V(1.33.1).
    type: str
    default: ""
  endpoint:
    description: Address and port of the API server.
    type: str
    default: ""
  token:
    description: The bootstrap token; whether it is well formed is all that is looked at.
    type: str
    default: ""
  ca_pins:
    description: Pins of the cluster's CA.
    type: list
    elements: str
    default: []
  address:
    description: The address that the kubelet registers with.
    type: str
    default: ""
  swap:
    description: Whether swap is switched off, allowed, or a problem.
    type: str
    choices: [disable, allow, refuse]
    default: disable
  cgroup_driver:
    description: Who makes the pods' cgroups.
    type: str
    choices: [systemd, cgroupfs]
    default: systemd
  cgroup_v1:
    description: Whether the kubelet is told to start on cgroup v1 too; from 1.35 on it does not by itself.
    type: bool
    default: false
  modules:
    description: Kernel modules that must be there.
    type: list
    elements: str
    default: []
  sysctl:
    description: Kernel settings with the values that they will get.
    type: dict
    default: {}
  labels:
    description: Labels of the node's own.
    type: dict
    default: {}
  taints:
    description: Taints, each with C(key), C(effect) and perhaps C(value).
    type: list
    elements: dict
    default: []
  kubelet_arguments:
    description: Further arguments of the kubelet.
    type: dict
    default: {}
  ignore_preflight_errors:
    description: Names of kubeadm's own checks to pass over.
    type: list
    elements: str
    default: []
  nodes:
    description:
      - The cluster's nodes as lines of name, machine id and system uuid with a tab between, to find the host's name or
        identity taken.
    type: list
    elements: str
    default: []
  controller_time:
    description: Seconds since 1970 on the controller, to compare clocks; V(0) does not compare.
    type: float
    default: 0
  accelerator_vendor:
    description: PCI vendor id of the accelerators that labels are about.
    type: str
    default: 10de
  accelerators:
    description: Accelerators that the collection does not know, as in module M(vllmd.platform.host_capacity).
    type: dict
    default: {}
seealso:
  - module: vllmd.platform.kubernetes_join
"""

EXAMPLES = r"""
- name: Look whether the host can join
  vllmd.platform.kubernetes_preflight:
    version: 1.33.1
    endpoint: 10.0.0.10:6443
    ca_pins: ["sha256:7c2e69131a36ae2a042a339b33381c6d0d43887e2de83720eff5359e26aec866"]
    modules: [overlay, br_netfilter]
  register: host
"""

RETURN = r"""
name:
  description: The node's name.
  returned: success
  type: str
joined:
  description: Whether the host is a node of the cluster with the given pins.
  returned: success
  type: bool
server:
  description: URL of the API server that the host is a node of; empty when it is in no cluster.
  returned: success
  type: str
machine_id:
  description: The host's machine id.
  returned: success
  type: str
address:
  description: The host's address on the way to the API server; empty where there is no way.
  returned: success
  type: str
swaps:
  description: Active swap areas.
  returned: success
  type: list
  elements: str
swaps_at_boot:
  description: Swap areas in F(/etc/fstab).
  returned: success
  type: list
  elements: str
modules_to_load:
  description: Modules that are wanted and not loaded.
  returned: success
  type: list
  elements: str
sysctl_differs:
  description: Kernel settings that have another value now.
  returned: success
  type: list
  elements: str
nvidia_runtime:
  description: Whether NVIDIA's container runtime is installed.
  returned: success
  type: bool
hardware_labels:
  description: Labels that say what the host has.
  returned: success
  type: dict
problems:
  description: Why the host cannot be a node.
  returned: always
  type: list
  elements: str
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import joining, names, pins, preflight, versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.host_state import HostState, read_state
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.labels import hardware_labels
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.leftovers import control_plane
from ansible_collections.vllmd.platform.plugins.module_utils.placement.accelerators import AcceleratorError, known


def check_given(given: dict[str, Any]) -> list[str]:
    """Return what is wrong with what was given."""
    checks: list[Callable[[], object]] = [
        lambda: names.labels(given["labels"]),
        lambda: names.taints(given["taints"]),
        lambda: joining.arguments(given["kubelet_arguments"]),
        lambda: joining.ignored(given["ignore_preflight_errors"]),
    ]
    if given["state"] == "joined":
        checks += [lambda: joining.endpoint(given["endpoint"]), lambda: pins.parse(given["ca_pins"])]
        if given["token"]:
            checks.append(lambda: joining.token(given["token"]))
    found = []
    for check in checks:
        try:
            check()
        except NodeError as error:
            found.append(str(error))
    return found


def own_address(endpoint: str) -> str:
    """Return the host's address on the way to the API server, which a kubelet takes by default; empty for none."""
    host, _colon, port = endpoint.rpartition(":")
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(where)  # sends nothing
            return str(connection.getsockname()[0])
    except (OSError, ValueError):
        return ""


def unresolved(hosts: list[str]) -> list[str]:
    """Return those names that do not resolve; addresses always do."""
    found = []
    for host in hosts:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            found.append(host)
    return found


def around(given: dict[str, Any], host: Host, name: str) -> preflight.Around:
    """Return what the host's files do not tell. Raises NodeError."""
    nodes = [
        dict(zip(("name", "machine_id", "system_uuid"), line.split("\t"), strict=False)) for line in given["nodes"]
    ]
    return preflight.Around(
        membership=pins.membership(),
        clock_offset=time.time() - given["controller_time"] if given["controller_time"] else 0.0,
        is_clock_synchronized=host.time.is_synchronized,
        unresolved=unresolved([given["endpoint"].rpartition(":")[0].strip("[]"), name]) if given["endpoint"] else (),
        nodes=nodes,
        virtualization=host.system.virtualization or "",
        init=host.system.init or "",
        kubelet=host.packages.installed.get("kubelet", ""),
        cgroup_layout="" if given["cgroup_v1"] else host.cgroups.layout or "",
    )


def main() -> None:
    """Run the module."""
    text = {"type": "str", "default": ""}
    strings = {"type": "list", "elements": "str", "default": []}
    mapping = {"type": "dict", "default": {}}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["joined", "prepared", "left"], "default": "joined"},
            "name": text,
            "version": text,
            "endpoint": text,
            "token": {**text, "no_log": True},
            "ca_pins": strings,
            "address": text,
            "swap": {"type": "str", "choices": ["disable", "allow", "refuse"], "default": "disable"},
            "cgroup_driver": {"type": "str", "choices": ["systemd", "cgroupfs"], "default": "systemd"},
            "cgroup_v1": {"type": "bool", "default": False},
            "modules": strings,
            "sysctl": mapping,
            "labels": mapping,
            "taints": {"type": "list", "elements": "dict", "default": []},
            "kubelet_arguments": mapping,
            "ignore_preflight_errors": strings,
            "nodes": strings,
            "controller_time": {"type": "float", "default": 0},
            "accelerator_vendor": {"type": "str", "default": "10de"},
            "accelerators": mapping,
        },
        supports_check_mode=True,
    )
    given = module.params
    host = read_host("/", packages=("kubelet",))
    state = read_state(Path("/"), given["modules"], given["sysctl"])
    problems: list[str] = []
    result: dict[str, Any] = {}
    try:
        result = look(given, host, state, problems)
    except (NodeError, AcceleratorError) as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"cannot read {error.filename}: {error.strerror}; run this as root")
    if problems:
        module.fail_json(msg="\n".join(["this host cannot be a node:", *problems]), problems=problems)
    module.exit_json(changed=False, problems=[], **result)


def look(given: dict[str, Any], host: Host, state: HostState, problems: list[str]) -> dict[str, Any]:
    """Return what the host is, and add to ``problems``. Raises NodeError, AcceleratorError, OSError."""
    name = names.node_name(given["name"] or state.hostname)
    result = {
        "name": name,
        "machine_id": state.machine_id,
        "address": own_address(given["endpoint"]),
        "swaps": list(state.swaps),
        "swaps_at_boot": list(state.swaps_at_boot),
        "modules_to_load": sorted(set(given["modules"]) - state.modules),
        "sysctl_differs": sorted(preflight.sysctl_differs(state, given["sysctl"])),
        "nvidia_runtime": state.has_nvidia_runtime,
        "hardware_labels": hardware_labels(host, given["accelerator_vendor"], known(given["accelerators"])),
    }
    trouble = control_plane(Path("/"))
    if given["state"] == "left":
        problems += [trouble] if trouble else []
        try:
            membership = pins.membership()
        except NodeError:
            membership = None  # leaving mends that
        return {**result, "joined": False, "server": membership.server if membership else ""}
    problems += check_given(given)
    wanted = preflight.Wanted(
        name=name,
        version=versions.parse(given["version"], "kubernetes_node_version"),
        swap=given["swap"],
        cgroup_driver=given["cgroup_driver"],
        address=given["address"],
        modules=given["modules"],
        sysctl=given["sysctl"],
        pins=[str(pin).lower() for pin in given["ca_pins"]],
        endpoint=given["endpoint"],
        state=given["state"],
    )
    surroundings = around(given, host, name)
    problems += preflight.problems(state, wanted, surroundings)
    if trouble and given["state"] == "joined" and not preflight.is_member(surroundings, wanted):
        problems.append(trouble)
    membership = surroundings.membership
    return {
        **result,
        "joined": preflight.is_member(surroundings, wanted),
        "server": membership.server if membership else "",
    }


if __name__ == "__main__":
    main()
