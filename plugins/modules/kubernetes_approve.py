#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_approve
short_description: Let a person approve what a node asks a certificate for, knowingly
version_added: 0.1.0
description:
  - Runs where an administrator's kubeconfig is. A request that waits is approved. One that was denied stays denied, as
    Kubernetes has it; the next one of the same user for the same names and addresses is allowed then, once and for a
    time.
  - Who allows it and why stands in the request's condition, in its event and in the approver's journal.
  - What would not be a node's certificate at all (another subject, other usages, other signers) cannot be allowed.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
requirements:
  - cryptography
options:
  request:
    description: Name of the CertificateSigningRequest.
    type: str
    required: true
  by:
    description: Who allows it.
    type: str
    required: true
  why:
    description: Why, in one line.
    type: str
    required: true
  minutes:
    description: How long a denied request may come again.
    type: int
    default: 60
  kubeconfig:
    description: Credentials that may approve requests of nodes and change records.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
"""

EXAMPLES = r"""
- name: Allow a second address
  vllmd.platform.kubernetes_approve:
    request: csr-x7k2p
    by: ada
    why: the second address is new
    kubeconfig: /etc/kubernetes/admin.conf
"""

RETURN = r"""
message:
  description: What was done, in one line.
  returned: success
  type: str
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import decide, records, requests, store

_API = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_LONGEST_MINUTES = 24 * 60


def conditions(resource: dict[str, Any]) -> set[str]:
    """Return what was decided of a request."""
    return {each["type"] for each in resource.get("status", {}).get("conditions") or []}


def find(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """Return the request. Raises NodeError."""
    arguments = ("get", "certificatesigningrequest", name, "--ignore-not-found", "--output", "json")
    text = kubectl.must(f"cannot read request {name}", *arguments).strip()
    if not text:
        raise NodeError(f"there is no request {name}; 'vllmdctl nodes list' shows those that there are")
    found: dict[str, Any] = json.loads(text)
    return found


def allow(kubectl: Kubectl, given: dict[str, Any], *, check: bool) -> tuple[bool, str]:
    """Approve or allow; return whether that changes something, and what it is. Raises NodeError, RecordError."""
    resource = find(kubectl, given["request"])
    request = requests.read(resource)
    if not request.is_ours:
        raise NodeError(
            f"request {request.name} is of {request.user} to {request.signer}, no node's; use 'kubectl certificate'"
        )
    trouble = decide.never(request)
    if trouble:
        raise NodeError(f"request {request.name}: {trouble}; nobody can allow that")
    if "Approved" in conditions(resource):
        return False, f"request {request.name} is approved already"
    if "Denied" in conditions(resource):
        return next_one(kubectl, request, given, check=check)
    if not check:
        approve(kubectl, resource, f"allowed by {given['by']}: {given['why']}")
    return True, f"request {request.name} is approved"


def approve(kubectl: Kubectl, resource: dict[str, Any], message: str) -> None:
    """Approve a request that waits. Raises NodeError."""
    now = records.rfc3339(datetime.now(UTC))
    condition = {"type": "Approved", "status": "True", "reason": "AllowedByPerson", "message": message}
    document = {
        **resource,
        "status": {**resource.get("status", {}), "conditions": [{**condition, "lastUpdateTime": now}]},
    }
    name = resource["metadata"]["name"]
    what = f"cannot approve request {name}; if it was decided meanwhile, run this again"
    kubectl.must(what, "replace", "--raw", f"{_API}/{name}/approval", "--filename", "-", stdin=json.dumps(document))


def next_one(kubectl: Kubectl, request: requests.Request, given: dict[str, Any], *, check: bool) -> tuple[bool, str]:
    """Let the next request like this one be approved. Raises NodeError, RecordError."""
    now, node, content = datetime.now(UTC), decide.node_name(request), requests.asked(request)
    allowance = records.Allowance(
        signer=request.signer,
        user=request.user,
        until=records.rfc3339(now + timedelta(minutes=given["minutes"])),
        by=given["by"],
        why=given["why"],
        names=content.names,
        addresses=content.addresses,
        request=request.name,
    )
    place = store.Store(kubectl)
    found = place.read(node)
    before = found.record or records.Record(node)
    known = before.allowance
    message = (
        f"request {request.name} stays denied; the next of {request.user} for the same names is approved, once, until "
    )
    if known and replace(known, until=allowance.until) == allowance and records.parse_time(known.until) > now:
        return False, message + known.until
    if not check:
        place.write(found, replace(before, allowance=allowance))
    return True, message + allowance.until


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "request": {"type": "str", "required": True},
            "by": {"type": "str", "required": True},
            "why": {"type": "str", "required": True},
            "minutes": {"type": "int", "default": 60},
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given = module.params
    for name in ("by", "why"):
        given[name] = " ".join(given[name].split())[:300]
        if not given[name]:
            module.fail_json(msg=f"approve: {name} is empty; say who allows it, and why")
    if not 1 <= given["minutes"] <= _LONGEST_MINUTES:
        module.fail_json(msg=f"approve: minutes {given['minutes']}; allowed: 1 to {_LONGEST_MINUTES}")
    try:
        requests.need_cryptography()
        kubectl = Kubectl(given["kubectl"], given["kubeconfig"])
        changed, message = allow(kubectl, given, check=module.check_mode)
    except (NodeError, records.RecordError, requests.UnreadableError) as error:
        module.fail_json(msg=f"approve: {error}")
    module.exit_json(changed=changed, message=message)


if __name__ == "__main__":
    main()
