#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_labels
short_description: Wait until a node is ready, and keep its labels as they should be
version_added: 0.1.0
description:
  - Works with the node's own credentials and on itself alone, so no administrator's are needed on it. A kubelet sets
    labels only when it registers its node; this keeps them right afterwards.
  - Labels of the domains C(accelerator.vllmd.com) and C(host.vllmd.com), and those that this module set before, are
    taken away when they are not wanted any more. All others are left alone.
  - Taints can only be changed by an administrator; what differs is returned.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would change, and waits for nothing.
    support: full
  diff_mode:
    description: Shows the labels before and after.
    support: full
options:
  name:
    description: The node's name.
    type: str
    required: true
  labels:
    description: The labels.
    type: dict
    default: {}
  taints:
    description: The taints that the node should have.
    type: list
    elements: dict
    default: []
  wait:
    description: Seconds to wait until the node is ready; V(0) does not wait.
    type: int
    default: 300
  kubeconfig:
    description: The kubelet's credentials.
    type: path
    default: /etc/kubernetes/kubelet.conf
  record:
    description: Where the module remembers which labels it set.
    type: path
    default: /var/lib/vllmd/kubernetes-node/labels.json
"""

EXAMPLES = r"""
- name: Keep the labels
  vllmd.platform.kubernetes_labels:
    name: gpu-01
    labels: {vllmd.com/rack: r7, accelerator.vllmd.com/count: "8"}
"""

RETURN = r"""
ready:
  description: Whether the node is ready.
  returned: success
  type: bool
labels:
  description: The node's labels afterwards; of a node that would join now, those that it would get.
  returned: success
  type: dict
taints_differ:
  description: Taints that are missing, one line each.
  returned: success
  type: list
  elements: str
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import labels as rules
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import names
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

_POLL_SECONDS = 0.5
_WATCH_SECONDS = 10


def condition(node: dict[str, Any] | None) -> tuple[bool, str]:
    """Return whether a node is ready, and why not."""
    if node is None:
        return False, "the API server does not know it"
    for each in node.get("status", {}).get("conditions", []):
        if each.get("type") == "Ready":
            return each.get("status") == "True", str(each.get("message") or each.get("reason") or "it does not say why")
    return False, "its kubelet has said nothing yet"


def wait(kubectl: Kubectl, name: str, seconds: int) -> dict[str, Any]:
    """Return the node when it is ready. Raises NodeError with what it waits for when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        trouble = ""
        node = None
        try:
            node = kubectl.node(name)
        except NodeError as error:  # an API server that restarts
            trouble = str(error)
        ready, message = condition(node)
        if node is not None and (ready or seconds == 0):
            return node
        if time.monotonic() >= deadline:
            raise NodeError(
                f"node {name} is not ready after {seconds} s: {' '.join((trouble or message).split())[:400]}; "
                "'journalctl -u kubelet' on the host says more"
            )
        # Ends at once when the node is ready. Where nobody may watch it ends at once, too: no asking without a pause.
        patience = min(_WATCH_SECONDS, max(1, int(deadline - time.monotonic())))
        watch = ("wait", "--for=condition=Ready", f"node/{name}", f"--timeout={patience}s")
        if node is None or kubectl.run(*watch).status != 0:
            time.sleep(_POLL_SECONDS)


def remembered(path: Path) -> list[str]:
    """Return the keys of labels that an earlier run set."""
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(key) for key in keys] if isinstance(keys, list) else []


def bring(module: AnsibleModule, given: dict[str, Any]) -> dict[str, Any]:
    """Wait and label; return the module's result. Raises NodeError, OSError."""
    wanted, taints = names.labels(given["labels"]), names.taints(given["taints"])
    record = Path(given["record"])
    if module.check_mode and (not Path(given["kubeconfig"]).exists() or shutil.which("kubectl") is None):
        return {"changed": False, "ready": False, "labels": wanted, "taints_differ": []}
    kubectl = Kubectl("kubectl", given["kubeconfig"])
    node = wait(kubectl, given["name"], 0 if module.check_mode else given["wait"])
    current = node.get("metadata", {}).get("labels", {})
    changed = rules.changes(current, wanted, remembered(record))
    if not module.check_mode:
        if changed:
            arguments = [key + "-" if value is None else f"{key}={value}" for key, value in changed.items()]
            kubectl.must("cannot set the node's labels", "label", "node", given["name"], "--overwrite", *arguments)
        keys = sorted(key for key in wanted if key.rpartition("/")[0] not in rules.DOMAINS)
        if keys != remembered(record):
            atomic.make_directory(record.parent)
            atomic.write_file(record, (json.dumps(keys) + "\n").encode(), 0o644)
    after = {key: value for key, value in {**current, **changed}.items() if value is not None}
    there = node.get("spec", {}).get("taints") or []
    known = {(each.get("key"), each.get("value") or "", each.get("effect")) for each in there}
    return {
        "changed": bool(changed),
        "ready": condition(node)[0],
        "labels": after,
        "taints_differ": [
            f"{each['key']}={each['value']}:{each['effect']}"
            for each in taints
            if (each["key"], each["value"], each["effect"]) not in known
        ],
        "diff": {
            "before": "".join(f"{key}={current[key]}\n" for key in changed if key in current),
            "after": "".join(f"{key}={value}\n" for key, value in changed.items() if value is not None),
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "labels": {"type": "dict", "default": {}},
            "taints": {"type": "list", "elements": "dict", "default": []},
            "wait": {"type": "int", "default": 300},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/kubelet.conf"},
            "record": {"type": "path", "default": "/var/lib/vllmd/kubernetes-node/labels.json"},
        },
        supports_check_mode=True,
    )
    try:
        result = bring(module, module.params)
    except NodeError as error:
        module.fail_json(msg=f"labels: {error}")
    except OSError as error:
        module.fail_json(msg=f"labels: {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
