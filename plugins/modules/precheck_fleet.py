# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: precheck_fleet
short_description: Make one page of the precheck reports of many hosts
version_added: 0.1.0
description:
  - Reads the reports that M(vllmd.platform.precheck) left on the controller and writes C(index.html) and C(fleet.json)
    beside them.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: The action runs on the controller alone.
    support: full
  check_mode:
    description: Judges as always, and writes nothing.
    support: full
  diff_mode:
    description: Nothing is shown.
    support: none
options:
  report_dir:
    description: Directory on the controller that holds the reports.
    type: path
    required: true
  hosts:
    description: Inventory names of the hosts that were checked. Reports of others in O(report_dir) are left alone.
    type: list
    elements: str
    required: true
  missing:
    description: Hosts that should have been checked and could not be reached. They make the fleet not ready.
    type: list
    elements: str
    default: []
seealso:
  - module: vllmd.platform.precheck
"""

EXAMPLES = r"""
- name: Write the fleet's page
  vllmd.platform.precheck_fleet:
    report_dir: build/precheck
    hosts: "{{ ansible_play_hosts }}"
    missing: "{{ ansible_play_hosts_all | difference(ansible_play_hosts) }}"
  run_once: true
"""

RETURN = r"""
verdict:
  description: The worst verdict of all hosts.
  returned: success
  type: str
exit_status:
  description: The highest exit status of all hosts; V(2) when one is missing.
  returned: success
  type: int
lines:
  description: A table for people, one line for each host, the worst first.
  returned: success
  type: list
  elements: str
files:
  description: The files on the controller that were written.
  returned: success
  type: list
  elements: str
"""
