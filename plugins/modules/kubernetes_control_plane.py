#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_control_plane
short_description: Make a host a member of a Kubernetes control plane
version_added: 0.1.0
description:
  - Writes kubeadm's configuration for the version of kubeadm that is installed, lets kubeadm check it where it can,
    and runs C(kubeadm init) on the first member, C(kubeadm join) as a further one.
  - A host that is a member is left as it is. A first member that was interrupted goes on where its API server answers,
    and begins anew where it does not; a further one is reset and joins again.
  - Further members join only by the pin of the cluster's CA.
  - Neither token nor certificate key is in an argument of a program, in an output, or in a file once the module has
    ended.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: Shows the configuration without secrets.
    support: full
options:
  step:
    description: >-
      V(authority) makes the cluster's CA, V(init) the first member, V(join) a further one, V(upload) lets further
      members fetch the cluster's keys with a new certificate key, V(withdraw) ends that. Register the result of
      V(upload) with C(no_log).
    type: str
    choices: [authority, init, join, upload, withdraw]
    required: true
  cluster:
    description: >-
      What all members share, RV(ignore:endpoint) at least; name, pod_subnet, service_subnet, dns_domain,
      image_repository, sans, arguments, audit, kubelet and proxy may be given.
    type: dict
    required: true
  name:
    description: The node's name.
    type: str
    required: true
  address:
    description: The member's own address.
    type: str
    required: true
  port:
    description: The port that its API server listens on.
    type: int
    default: 6443
  taints:
    description: Taints that it is registered with. Left out, those that kubeadm gives a member.
    type: list
    elements: dict
  kubelet_arguments:
    description: Further arguments of the kubelet.
    type: dict
    default: {}
  ignore_preflight_errors:
    description: Names of kubeadm's own checks to pass over; V(all) is not possible.
    type: list
    elements: str
    default: []
  skip_phases:
    description: Phases of C(kubeadm init) that are left out, such as V(addon/coredns).
    type: list
    elements: str
    default: []
  patches:
    description: Directory of patches that kubeadm applies, from version 1.25 on.
    type: path
    default: ""
  token:
    description: Bootstrap token to join with.
    type: str
    default: ""
  ca_pins:
    description: Pins of the cluster's CA to join by.
    type: list
    elements: str
    default: []
  certificate_key:
    description: What V(upload) returned, to join with.
    type: str
    default: ""
  timeout:
    description: Seconds until kubeadm must have ended.
    type: int
    default: 600
seealso:
  - module: vllmd.platform.kubernetes_join
"""

EXAMPLES = r"""
- name: Make the first member
  vllmd.platform.kubernetes_control_plane:
    step: init
    name: control-01
    address: 10.0.0.11
    cluster:
      endpoint: 10.0.0.10:8443
      pod_subnet: 10.244.0.0/16
"""

RETURN = r"""
version:
  description: The version of kubeadm; empty in check mode where it is not installed yet.
  returned: success
  type: str
ca_pins:
  description: The pins of the cluster's CA as this host has it.
  returned: success
  type: list
  elements: str
ca:
  description: The CA's certificate as this host has it.
  returned: success
  type: str
certificate_key:
  description: What the cluster's keys are encrypted with while further members fetch them, 64 hexadecimal digits.
  returned: with O(step=upload)
  type: str
seconds:
  description: How long kubeadm took.
  returned: when a member was made
  type: float
"""

import json
import re
import secrets as random
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import locks, signals
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import (
    assembling,
    control_plane,
    joining,
    membership,
    names,
    pins,
    preflight,
    tokens,
    versions,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError

LOCK = Path("/run/lock/vllmd-kubernetes-node.lock")
_KEY = re.compile(r"[0-9a-f]{64}")


def wanted(given: dict[str, Any]) -> tuple[control_plane.Cluster, control_plane.Member]:
    """Return what was given, checked. Raises NodeError."""
    try:
        cluster = control_plane.Cluster(**given["cluster"])
    except TypeError as error:
        raise NodeError(f"cluster: {str(error).rpartition(') ')[2] or error}") from None
    joining.endpoint(cluster.endpoint)
    member = control_plane.Member(
        name=names.node_name(given["name"]),
        address=given["address"],
        port=given["port"],
        taints=None if given["taints"] is None else names.taints(given["taints"]),
        kubelet_arguments=joining.arguments(given["kubelet_arguments"]),
        ignored=joining.ignored(given["ignore_preflight_errors"]),
        patches=given["patches"] or "",
    )
    if given["certificate_key"] and not _KEY.fullmatch(given["certificate_key"]):
        raise NodeError("the certificate key is malformed: write 64 hexadecimal digits")
    return cluster, member


def is_member(given: dict[str, Any], cluster: control_plane.Cluster) -> bool:
    """Return whether the host is a member already. Raises NodeError when it is one of another cluster."""
    if membership.state(assembling.ROOT) != "member":
        return False
    own = assembling.pinned()
    if given["ca_pins"] and not set(own) & set(pins.parse(given["ca_pins"])):
        found = pins.membership(assembling.ROOT) or pins.Membership("another cluster", tuple(own))
        raise NodeError(
            preflight.foreign(
                found,
                preflight.Wanted(name=given["name"], version=versions.Version(0, 0, 0), endpoint=cluster.endpoint),
            )
        )
    return True


def shown(documents: list[dict[str, Any]]) -> dict[str, str]:
    """Return what a diff shows: the documents without secrets."""
    text = "".join(f"{json.dumps(each, indent=2, sort_keys=True)}\n" for each in documents)
    return {"before": "", "after": text}


def bring(module: AnsibleModule, given: dict[str, Any]) -> dict[str, Any]:
    """Do the step; return the module's result. Raises NodeError, OSError."""
    cluster, member = wanted(given)
    step = given["step"]
    if step == "withdraw":
        return {"changed": True if module.check_mode else assembling.withdraw_certificates(), "version": ""}
    if step != "upload" and is_member(given, cluster):
        return {"changed": False, "version": ""}
    # A dry run has no program yet, or no authority that others could be told of.
    if module.check_mode and (shutil.which("kubeadm") is None or (step == "join" and not given["ca_pins"])):
        return {"changed": True, "version": "", **({"certificate_key": 64 * "0"} if step == "upload" else {})}
    version = assembling.kubeadm_version()
    token = tokens.generate() if step == "init" else given["token"]
    key = random.token_hex(32) if step == "upload" else given["certificate_key"]
    secret = {"token": token, "certificate_key": key}
    if step == "join":
        documents = [control_plane.joining_member(cluster.endpoint, member, version, pins=given["ca_pins"], **secret)]
    else:
        documents = control_plane.initialization(cluster, member, version, **secret)
    public = json.loads(assembling.without([value for value in secret.values() if value], json.dumps(documents)))
    result: dict[str, Any] = {"changed": True, "version": str(version), "diff": shown(public)}
    if step == "upload":
        result["certificate_key"] = key
    if module.check_mode:
        return result
    with locks.exclusive(LOCK, "joining or leaving a cluster"), signals.signals_raise():
        if step == "authority":
            result["changed"] = assembling.authority(documents)
        elif step == "upload":
            assembling.upload_certificates(documents, key)
        elif step == "init":
            seconds = assembling.initialize(documents, token, given["skip_phases"], version, given["timeout"])
            result["seconds"] = round(seconds, 2)
        else:
            seconds = assembling.join(documents[0], list(secret.values()), version, given["timeout"])
            result["seconds"] = round(seconds, 2)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["authority", "init", "join", "upload", "withdraw"], "required": True},
            "cluster": {"type": "dict", "required": True},
            "name": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6443},
            "taints": {"type": "list", "elements": "dict"},
            "kubelet_arguments": {"type": "dict", "default": {}},
            "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
            "skip_phases": {"type": "list", "elements": "str", "default": []},
            "patches": {"type": "path", "default": ""},
            "token": {"type": "str", "default": "", "no_log": True},
            "ca_pins": {"type": "list", "elements": "str", "default": []},
            "certificate_key": {"type": "str", "default": "", "no_log": True},
            "timeout": {"type": "int", "default": 600},
        },
        required_if=[("step", "join", ["token", "ca_pins", "certificate_key"])],
        supports_check_mode=True,
    )
    try:
        result = bring(module, module.params)
        ca = assembling.ROOT / str(assembling.CA).lstrip("/")
        text = ca.read_text(encoding="utf-8") if ca.exists() else ""
        module.exit_json(**result, ca=text, ca_pins=assembling.pinned())
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"control plane: {error}")
    except signals.Interrupted as signal:
        module.fail_json(msg=f"control plane: interrupted by {signal}; run this again")
    except OSError as error:
        module.fail_json(msg=f"control plane: {error.filename or 'kubeadm'}: {error.strerror or error}")


if __name__ == "__main__":
    main()
