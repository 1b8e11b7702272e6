#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: etcd_snapshot_info
short_description: Say which snapshots of etcd a directory has, and whether one of them is whole
version_added: 0.1.0
description:
  - Reads what lies beside each snapshot that role C(runtime_controller) took. The one with O(name) is compared with its
    size and SHA-256 as well.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  directory:
    description: Where the snapshots are. One that is not there has none.
    type: path
    required: true
  name:
    description: A snapshot's file name. It need not be there.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Look for the snapshot
  vllmd.platform.etcd_snapshot_info:
    directory: /var/lib/vllmd/etcd-snapshots
    name: etcd-20260101T020000Z-control-1.db
"""

RETURN = r"""
snapshots:
  description: What is known of each complete snapshot, the newest first.
  returned: success
  type: list
  elements: dict
snapshot:
  description: The one with O(name); empty when it is not there.
  returned: success
  type: dict
path:
  description: Its path; empty when it is not there.
  returned: success
  type: str
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping import snapshots
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.errors import KeepingError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    directory, name = Path(module.params["directory"]), module.params["name"]
    path = directory / name
    try:
        if Path(name).name != name:
            raise KeepingError(f"name {name!r} is no file name; give the name alone, and its directory")
        known = snapshots.there(directory) if directory.is_dir() else []
        found = snapshots.check(path) if name and path.is_file() else None
    except KeepingError as error:
        module.fail_json(msg=f"snapshot: {error}")
    except OSError as error:
        module.fail_json(msg=f"snapshot: {error.filename}: {error.strerror}")
    module.exit_json(
        changed=False,
        snapshots=[asdict(each) for each in known],
        snapshot=asdict(found) if found else {},
        path=str(path) if found else "",
    )


if __name__ == "__main__":
    main()
