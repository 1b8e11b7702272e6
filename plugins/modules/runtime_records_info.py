#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_records_info
short_description: Read what a host remembers about its runtimes
version_added: 0.1.0
description:
  - Reads what module M(vllmd.platform.runtime_record) wrote, without the files' content.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  directory:
    description: The directory that holds one directory for each runtime.
    type: path
    default: /var/lib/vllmd/runtimes
  names:
    description: The runtimes.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Read what is remembered
  vllmd.platform.runtime_records_info:
    names: [smollm2]
  register: remembered
"""

RETURN = r"""
records:
  description: By name C(served), C(update) and C(refused); each is null when there is no such record.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import runtime_records as records


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/var/lib/vllmd/runtimes"},
            "names": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    found = {}
    try:
        for name in module.params["names"]:
            directory = Path(module.params["directory"], name)
            served = records.read(directory / records.SERVED)
            found[name] = {
                "served": {key: value for key, value in served.items() if key != "files"} if served else None,
                "update": records.read(directory / records.UPDATE),
                "refused": records.read(directory / records.REFUSED),
            }
    except records.RecordError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, records=found)


if __name__ == "__main__":
    main()
