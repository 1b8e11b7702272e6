#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_record
short_description: Remember how a runtime served, and bring that back
version_added: 0.1.0
description:
  - Keeps three files in a runtime's directory, readable by root only. C(served.json), its files as they were when it
    served last; C(update.json) while an update of it is under way; C(refused.json), what was tried and did not serve.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be done, and does nothing.
    support: full
  diff_mode:
    description: Names the files that are brought back.
    support: full
options:
  path:
    description: The runtime's directory.
    type: path
    required: true
  state:
    description:
      - V(begun) notes that an update has begun.
      - V(served) remembers O(files) and O(entry); nothing happens while an update is under way, whose outcome is not
        known yet.
      - V(updated) does so too, and ends the update, which succeeded.
      - V(refused) notes that O(entry) does not serve, for O(reason).
      - V(restored) brings the remembered files back.
      - V(ended) ends the update without remembering anything.
    type: str
    choices: [begun, served, updated, refused, restored, ended]
    required: true
  files:
    description: What the runtime is started from. A directory C(*.d) stands for its C(*.conf).
    type: list
    elements: path
    default: []
  entry:
    description: The runtime's entry of C(hypervisor_runtimes).
    type: dict
    default: {}
  reason:
    description: Why it does not serve.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Remember what serves
  vllmd.platform.runtime_record:
    path: /var/lib/vllmd/runtimes/smollm2
    state: served
    files:
      - /etc/vllmd/hypervisor/smollm2.env
      - /var/lib/vllmd/runtimes/smollm2/config.iso
      - /etc/systemd/system/vllmd-hypervisor@smollm2.service.d
    entry: "{{ entry }}"

- name: Bring it back
  vllmd.platform.runtime_record:
    path: /var/lib/vllmd/runtimes/smollm2
    state: restored
"""

RETURN = r"""
refused:
  description: What was written to C(refused.json). C(kept) is null when nothing is known to have served before.
  returned: when O(state=refused)
  type: dict
files:
  description: The files that differed.
  returned: when O(state=restored)
  type: list
  elements: str
"""

import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import runtime_records as records


def now() -> str:
    """Return the time, as ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def serve(directory: Path, params: dict[str, Any], check: bool) -> bool:
    """Remember what serves. Returns whether that is new."""
    if params["state"] == "served" and (directory / records.UPDATE).exists():
        return False
    before = records.read(directory / records.SERVED) or {}
    after = {**records.about(params["entry"]), **records.snapshot(map(Path, params["files"]))}
    changed = {key: value for key, value in before.items() if key not in ("schema", "time")} != after
    if changed and not check:
        records.write(directory / records.SERVED, {**after, "time": now()})
    # What serves after all is not refused any more; another image may still be.
    refused = records.read(directory / records.REFUSED)
    if refused and (params["state"] == "updated" or records.is_refused(refused, params["entry"])):
        changed |= remove(directory / records.REFUSED, check)
    if params["state"] == "updated":
        changed |= remove(directory / records.UPDATE, check)
    return changed


def remove(path: Path, check: bool) -> bool:
    """Remove a record. Returns whether there was one."""
    exists = path.exists()
    if not check:
        path.unlink(missing_ok=True)
    return exists


def act(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the records into the state. Returns the task's result."""
    directory, state = Path(params["path"]), params["state"]
    if state in ("served", "updated"):
        return {"changed": serve(directory, params, check)}
    if state == "ended":
        return {"changed": remove(directory / records.UPDATE, check)}
    if state == "begun":
        exists = (directory / records.UPDATE).exists()
        if not exists and not check:
            records.write(directory / records.UPDATE, {"time": now(), **records.about(params["entry"])})
        return {"changed": not exists}
    served = records.read(directory / records.SERVED)
    if state == "refused":
        refused = records.refusal(served, records.about(params["entry"]), params["reason"], now())
        if not check:
            records.write(directory / records.REFUSED, refused)
        return {"changed": True, "refused": refused}
    if served is None:
        raise records.RecordError(f"{directory / records.SERVED} is missing, so nothing is known that served before")
    files = records.restore(served, only_check=check)
    return {
        "changed": bool(files),
        "files": files,
        "diff": {"prepared": "".join(f"restored {path}\n" for path in files)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["begun", "served", "updated", "refused", "restored", "ended"],
                "required": True,
            },
            "files": {"type": "list", "elements": "path", "default": []},
            "entry": {"type": "dict", "default": {}},
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        result = act(module.params, module.check_mode)
    except records.RecordError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot keep a record in {module.params['path']}: {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
