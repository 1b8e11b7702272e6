#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: etcd_restore
short_description: Take one step of bringing a snapshot of etcd back on a member of a control plane
version_added: 0.1.0
description:
  - F(playbooks/restore.yml) lets all members take each step before one of them takes the next. A step that was taken is
    not taken again, so that a restore which was interrupted goes on.
  - The old data directory is kept beside the new one, and nothing ever removes it.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Refuses what would be refused, says what would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows the step.
    support: full
options:
  step:
    description:
      - V(check) says who the member is, and refuses a snapshot of another cluster, of another version of etcd, or one
        for which there is no room.
      - V(prepare) makes the new data directory beside the old one, while everything runs.
      - V(stop) takes the static pods of the control plane aside and waits until nothing of it runs.
      - V(swap) puts the new data directory in place.
      - V(start) puts the static pods in O(components) back, V(wait) waits until they answer.
      - V(end) forgets the restore. V(abandon) lets everything be as it was, as long as nothing was swapped.
    type: str
    required: true
    choices: [check, prepare, stop, swap, start, wait, end, abandon]
  about:
    description: What M(vllmd.platform.etcd_snapshot_info) says of the snapshot. For V(check) and V(prepare).
    type: dict
    default: {}
  path:
    description: The snapshot on this host. For V(prepare).
    type: path
    default: ""
  peers:
    description: All members that are restored, name to peer URL. None is needed for the first V(check).
    type: dict
    default: {}
  components:
    description: Names of static pods. For V(start) and V(wait).
    type: list
    elements: str
    default: []
  tools:
    description: Directory with etcdctl, and etcdutl from etcd 3.5 on; empty takes those on PATH.
    type: str
    default: ""
  timeout:
    description: Seconds to wait for what was stopped or started.
    type: int
    default: 180
seealso:
  - module: vllmd.platform.etcd_snapshot_info
"""

EXAMPLES = r"""
- name: Stop the control plane
  vllmd.platform.etcd_restore:
    step: stop
"""

RETURN = r"""
member:
  description: The member's name.
  returned: success
  type: str
peer_url:
  description: Its URL for other members.
  returned: success
  type: str
loss:
  description: What would be lost, as a sentence.
  returned: when O(step) is V(check)
  type: str
kept:
  description: Where the old data directory is, or will be; empty when no restore is under way.
  returned: success
  type: str
"""

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping import probes, snapshots, tools
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.errors import KeepingError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.member import COMPONENTS
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.restoring import Restore, loss

LOCK = Path("/run/lock/vllmd-etcd-restore.lock")


def revision(found: tools.Tools, restore: Restore) -> int:
    """Return the revision that etcd is at now; 0 when it does not answer, which is why somebody restores."""
    try:
        return int(tools.client(found, restore.member, restore.root).status()["header"]["revision"])
    except (KeepingError, KeyError, TypeError, ValueError):
        return 0


def answers(restore: Restore, found: tools.Tools, components: list[str], seconds: int) -> None:
    """Wait until those of ``components`` that can be asked answer. Raises KeepingError, OSError."""
    if "etcd" in components:
        client = tools.client(found, restore.member, restore.root)

        def etcd() -> str:
            try:
                client.status()
            except KeepingError as error:
                return str(error)
            return ""

        probes.wait(f"etcd of member {restore.member.name} is not healthy", seconds, etcd)
    if "kube-apiserver" in components:
        url, context = probes.api_server(restore.root)

        def api_server() -> str:
            status, text = probes.get(f"{url}/readyz", timeout=10, context=context)
            return "" if status == 200 else f"{url}/readyz says {status or 'nothing'}: {' '.join(text.split())[:200]}"

        probes.wait("the API server is not ready", seconds, api_server)


def step(module: AnsibleModule, restore: Restore) -> dict[str, Any]:
    """Take the step; return what is particular to it. Raises KeepingError, OSError."""
    given, name = module.params, module.params["step"]
    found = tools.find(given["tools"])
    if name in ("check", "prepare"):
        snapshot = snapshots.parse(json.dumps({"format": snapshots.FORMAT, **given["about"]}), "about")
        peers = given["peers"] or {restore.member.name: restore.member.peer_url}
        refused = restore.refusals(snapshot, found, peers)
        if refused:
            raise KeepingError("; ".join(f"{snapshot.name}: {line}" for line in refused))
        if name == "check":
            return {"changed": False, "loss": loss(snapshot, int(time.time()), revision(found, restore))}
        if module.check_mode:
            return {"changed": True}
        snapshots.check(Path(given["path"]))
        return {"changed": restore.prepare(Path(given["path"]), snapshot, found, peers)}
    if module.check_mode:
        return {"changed": name != "wait"}
    if name in ("start", "wait"):
        wrong = sorted(set(given["components"]) - set(COMPONENTS))
        if wrong:
            raise KeepingError(f"components: {wrong[0]!r} is none of {', '.join(COMPONENTS)}")
        if name == "start":
            return {"changed": restore.start(given["components"])}
        answers(restore, found, given["components"], given["timeout"])
        return {"changed": False}
    steps = {
        "stop": lambda: restore.stop(given["timeout"]),
        "swap": restore.swap,
        "end": restore.end,
        "abandon": restore.abandon,
    }
    return {"changed": steps[name]()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "required": True,
                "choices": ["check", "prepare", "stop", "swap", "start", "wait", "end", "abandon"],
            },
            "about": {"type": "dict", "default": {}},
            "path": {"type": "path", "default": ""},
            "peers": {"type": "dict", "default": {}},
            "components": {"type": "list", "elements": "str", "default": []},
            "tools": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 180},
        },
        required_if=[("step", "check", ["about"]), ("step", "prepare", ["about", "path"])],
        supports_check_mode=True,
    )
    try:
        with locks.exclusive(LOCK, "restoring etcd"):
            restore = Restore()
            result = step(module, restore)
            record = restore.record()
    except (KeepingError, locks.LockedError) as error:
        module.fail_json(msg=f"restore: {error}")
    except OSError as error:
        module.fail_json(msg=f"restore: {error.filename}: {error.strerror}")
    member = restore.member
    did = f"{module.params['step']}\n" if result["changed"] else ""
    kept = record.kept if record else ""
    module.exit_json(
        member=member.name, peer_url=member.peer_url, kept=kept, diff={"before": "", "after": did}, **result
    )


if __name__ == "__main__":
    main()
