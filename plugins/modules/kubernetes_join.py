#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_join
short_description: Make a host a node of a Kubernetes cluster, only by the pin of its CA
version_added: 0.1.0
description:
  - Writes kubeadm's JoinConfiguration for the version of kubeadm that is installed, lets kubeadm check it where it can,
    and runs C(kubeadm join).
  - Without a pin of the cluster's CA nothing is joined, since anybody who answers at the address would be believed.
  - A host that is a node of that cluster (its kubelet believes a CA with one of the pins) is left as it is. A node of
    another cluster is refused.
  - What an interrupted join left is reset first, and a join that fails is reset, so that the host is as it was.
  - The token is in no argument of a program, in no output, and in no file once the module has ended.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether the host would join, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the configuration without the token.
    support: full
options:
  endpoint:
    description: Address and port of the API server.
    type: str
    required: true
  token:
    description: A bootstrap token. Only needed to join.
    type: str
    default: ""
  ca_pins:
    description: Pins of the cluster's CA, V(sha256:) and 64 hexadecimal digits.
    type: list
    elements: str
    required: true
  name:
    description: The node's name.
    type: str
    required: true
  labels:
    description: Labels that the node gives itself.
    type: dict
    default: {}
  taints:
    description: Taints that the node is registered with.
    type: list
    elements: dict
    default: []
  kubelet_arguments:
    description: Further arguments of the kubelet.
    type: dict
    default: {}
  allow_swap:
    description: Whether the kubelet may start with swap.
    type: bool
    default: false
  ignore_preflight_errors:
    description: Names of kubeadm's own checks to pass over; V(all) is not possible.
    type: list
    elements: str
    default: []
  patches:
    description: Directory of patches that kubeadm applies, from version 1.25 on.
    type: path
    default: ""
  discovery_timeout:
    description: Seconds to ask the API server for what the token proves.
    type: int
    default: 60
  timeout:
    description: Seconds until kubeadm must have ended.
    type: int
    default: 600
seealso:
  - module: vllmd.platform.kubernetes_leave
"""

EXAMPLES = r"""
- name: Join
  vllmd.platform.kubernetes_join:
    endpoint: 10.0.0.10:6443
    token: "{{ vault_bootstrap_token }}"
    ca_pins: ["sha256:7c2e69131a36ae2a042a339b33381c6d0d43887e2de83720eff5359e26aec866"]
    name: gpu-01
"""

RETURN = r"""
name:
  description: The node's name.
  returned: success
  type: str
version:
  description: The version of kubeadm; empty in check mode where it is not installed yet.
  returned: success
  type: str
api_version:
  description: The version of kubeadm's configuration that was written.
  returned: when the host joined
  type: str
seconds:
  description: How long C(kubeadm join) took.
  returned: when the host joined
  type: float
kubelet_configuration:
  description: What is in F(/var/lib/kubelet/config.yaml).
  returned: when the host is a node
  type: str
"""

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic, locks, signals
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import (
    joining,
    kubelet,
    leftovers,
    names,
    pins,
    preflight,
    versions,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import run

ROOT = Path("/")
LOCK = Path("/run/lock/vllmd-kubernetes-node.lock")
#: In RAM, for root alone, and gone when the module ends.
DIRECTORY = Path("/run/vllmd-kubernetes-join")
BOOTSTRAP = Path("/etc/kubernetes/bootstrap-kubelet.conf")
KUBELET = Path("/var/lib/kubelet/config.yaml")
_RESET_SECONDS = 300


def installed() -> versions.Version:
    """Return the version of the kubeadm that is found, which has to fit the kubelet. Raises NodeError."""
    kubeadm = run(["kubeadm", "version", "--output", "short"], timeout_seconds=60)
    version = versions.parse(kubeadm.output, "kubeadm version")
    answer = run(["kubelet", "--version"], timeout_seconds=60)
    trouble = versions.skew(versions.parse(answer.output.rpartition(" ")[2], "kubelet --version"), version)
    if trouble:
        raise NodeError(trouble)
    return version


def wanted(given: dict[str, Any], version: versions.Version) -> joining.Join:
    """Return what was given, checked. Raises NodeError."""
    arguments = joining.arguments(given["kubelet_arguments"])
    return joining.Join(
        endpoint=joining.endpoint(given["endpoint"]),
        token=joining.token(given["token"]),
        pins=pins.parse(given["ca_pins"]),
        name=names.node_name(given["name"]),
        labels=names.labels(given["labels"]),
        taints=names.taints(given["taints"]),
        arguments={**kubelet.first_arguments(version, allow_swap=given["allow_swap"]), **arguments},
        ignored=joining.ignored(given["ignore_preflight_errors"]),
        patches=given["patches"] or "",
        discovery_seconds=given["discovery_timeout"],
    )


def is_member(given: dict[str, Any]) -> bool:
    """Return whether the host is a node of the wanted cluster. Raises NodeError when it is one of another."""
    membership = pins.membership(ROOT)
    if membership is None:
        return False
    if set(membership.pins) & set(pins.parse(given["ca_pins"])):
        return True
    named = preflight.Wanted(name=given["name"], version=versions.Version(0, 0, 0), endpoint=given["endpoint"])
    raise NodeError(preflight.foreign(membership, named))


def reset() -> str:
    """Take away what a join left; return why that failed, empty when it did not."""
    # The kubelet would go on trying with the token while it is reset.
    BOOTSTRAP.unlink(missing_ok=True)
    try:
        done = run(["kubeadm", "reset", "--force", "--cri-socket", joining.SOCKET], timeout_seconds=_RESET_SECONDS)
    except NodeError as error:
        return str(error)
    return "" if done.status == 0 else done.last_line


def join(document: dict[str, Any], order: joining.Join, version: versions.Version, timeout: int) -> float:
    """Run kubeadm; return the seconds it took. Raises NodeError, and then the host is as before."""
    file = DIRECTORY / "config.json"
    shutil.rmtree(DIRECTORY, ignore_errors=True)  # of a run that was killed
    trouble = leftovers.control_plane(ROOT)
    if trouble:
        raise NodeError(trouble)
    if any((ROOT / name).exists() for name in leftovers.MEMBER_FILES):
        trouble = reset()
        if trouble:
            raise NodeError(f"an earlier join was interrupted and cannot be reset: {trouble}")
    try:
        DIRECTORY.mkdir(mode=0o700)
        atomic.write_file(file, json.dumps(document).encode(), 0o600)
        if versions.can_validate(version):
            checked = run(["kubeadm", "config", "validate", "--config", str(file)], timeout_seconds=60)
            if checked.status != 0:
                raise NodeError(f"kubeadm refuses its configuration: {joining.without(order.token, checked.last_line)}")
        started = time.monotonic()
        try:
            done = run(["kubeadm", "join", "--config", str(file)], timeout_seconds=timeout)
            failure = "" if done.status == 0 else joining.reason(done.said, order.endpoint, order.name)
        except NodeError as error:
            failure = str(error)
        if failure:
            trouble = reset()
            undone = f"; it could not be undone: {trouble}" if trouble else "; the host is as it was"
            raise NodeError(joining.without(order.token, failure) + undone)
        return time.monotonic() - started
    except signals.Interrupted:
        with signals.signals_ignored():
            reset()
        raise
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        BOOTSTRAP.unlink(missing_ok=True)


def kubelet_configuration() -> dict[str, str]:
    """Return the text of the kubelet's configuration by its name in the result, nothing where there is none."""
    try:
        return {"kubelet_configuration": KUBELET.read_text(encoding="utf-8")}
    except FileNotFoundError:
        return {}


def bring(module: AnsibleModule, given: dict[str, Any]) -> dict[str, Any]:
    """Join, or find that the host has; return the module's result. Raises NodeError, OSError."""
    pins.parse(given["ca_pins"])
    joining.endpoint(given["endpoint"])
    name = names.node_name(given["name"])
    if is_member(given):
        # What a run left that was killed after the kubelet had its certificate, and before kubeadm tidied up.
        if BOOTSTRAP.exists() and not module.check_mode:
            BOOTSTRAP.unlink()
        return {"changed": False, "name": name, "version": "", **kubelet_configuration()}
    if not given["token"]:
        raise NodeError(
            f"no bootstrap token was given and this host is not a node of {given['endpoint']} yet; make one with "
            "'kubeadm token create --ttl 15m' on the control plane"
        )
    if module.check_mode and shutil.which("kubeadm") is None:
        return {"changed": True, "name": name, "version": ""}
    version = installed()
    order = wanted(given, version)
    document = joining.configuration(order, version)
    shown = copy.deepcopy(document)
    shown["discovery"]["bootstrapToken"]["token"] = "(token)"  # noqa: S105 -- what stands in its place
    result: dict[str, Any] = {
        "changed": True,
        "name": name,
        "version": str(version),
        "api_version": document["apiVersion"],
        "diff": {"before": "", "after": json.dumps(shown, indent=2, sort_keys=True) + "\n"},
    }
    if not module.check_mode:
        with locks.exclusive(LOCK, "joining or leaving a cluster"), signals.signals_raise():
            result["seconds"] = round(join(document, order, version, given["timeout"]), 2)
            result.update(kubelet_configuration())
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "required": True},
            "token": {"type": "str", "default": "", "no_log": True},
            "ca_pins": {"type": "list", "elements": "str", "required": True},
            "name": {"type": "str", "required": True},
            "labels": {"type": "dict", "default": {}},
            "taints": {"type": "list", "elements": "dict", "default": []},
            "kubelet_arguments": {"type": "dict", "default": {}},
            "allow_swap": {"type": "bool", "default": False},
            "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
            "patches": {"type": "path", "default": ""},
            "discovery_timeout": {"type": "int", "default": 60},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    try:
        result = bring(module, module.params)
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"join: {error}")
    except signals.Interrupted as signal:
        module.fail_json(msg=f"join: interrupted by {signal}; the host was reset, run this again")
    except OSError as error:
        module.fail_json(msg=f"join: {error.filename or 'kubeadm'}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
