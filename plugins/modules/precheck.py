#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: precheck
short_description: Say whether a host can run virtual machines with passed-through accelerators, and what to do if not
version_added: 0.1.0
description:
  - Reads the host once, without starting a process, and judges what it found by more than a hundred checks.
  - Each finding has a status, evidence, the reason it matters, a remedy and a reference. C(docs/precheck.md) lists all.
  - Never changes the host. Without root some checks are V(SKIP), because not everything can be read.
  - A host that is not ready does not fail the task; RV(report.verdict) and RV(report.exit_status) say it.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: An action on the controller writes the report's files and compares it with the earlier one.
    support: full
  check_mode:
    description: Reads and judges as always, and writes no report.
    support: full
  diff_mode:
    description: Shows the findings whose status differs from the earlier report.
    support: full
options:
  policy:
    description:
      - What the site asks of the host, over the defaults. An unknown key or a wrong value is refused.
      - C(docs/precheck.md) describes each key.
    type: dict
    default: {}
  root:
    description: Directory that stands for the host's C(/), such as a captured tree.
    type: path
    default: /
  report_dir:
    description:
      - Directory on the controller for C(HOST.json), C(HOST.txt) and C(HOST.html). Without it nothing is written.
      - A report that is there already is what the new one is compared with.
    type: path
  earlier:
    description: Another earlier report to compare with, a JSON file on the controller.
    type: path
  show:
    description: Which findings RV(lines) holds, V(problems) being FAIL, RISK and WARN.
    type: str
    choices: [all, problems, none]
    default: all
  width:
    description: Columns that RV(lines) are wrapped at. Remedies are not wrapped, so that they can be copied.
    type: int
    default: 120
seealso:
  - module: vllmd.platform.precheck_fleet
  - module: vllmd.platform.host_facts
"""

EXAMPLES = r"""
- name: Check the host
  vllmd.platform.precheck:
    policy:
      accelerator_count: 8
      hugepages_gib: 512
    report_dir: build/precheck
  become: true
  register: checked

- name: Stop where it is not ready
  ansible.builtin.assert:
    that: checked.report.verdict != 'not ready'
    fail_msg: "{{ checked.lines | join('\n') }}"
"""

RETURN = r"""
report:
  description: The report, as in C(precheck-v1.schema.json).
  returned: success
  type: dict
  contains:
    verdict:
      description: V(ready), V(warnings) (something is WARN or RISK) or V(not ready) (something is FAIL).
      type: str
    exit_status:
      description: V(0) ready, V(1) warnings under a strict policy, V(2) not ready.
      type: int
    score:
      description: 0 to 100 over all checks that could be decided; null when none could.
      type: int
    scores:
      description: The score of each subsystem.
      type: dict
    counts:
      description: Number of findings by status.
      type: dict
    findings:
      description:
        - The findings, most urgent first.
        - Each has C(id), C(subsystem), C(title), C(status), C(subjects), C(evidence), C(why), C(remedy), C(reference).
      type: list
      elements: dict
    changes:
      description: C(id), C(subject), C(before), C(after) and C(evidence) of every finding whose status changed.
      type: list
      elements: dict
    topology:
      description: NUMA nodes, PCIe tree and IOMMU groups, as far as they concern accelerators.
      type: dict
lines:
  description: The report as a table for people, failures first, each one's remedy below it.
  returned: success
  type: list
  elements: str
files:
  description: The files on the controller that were written.
  returned: when O(report_dir) is given
  type: list
  elements: str
seconds:
  description: How long the host took to be read and judged, without starting Python.
  returned: success
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import PolicyError, make_policy
from ansible_collections.vllmd.platform.plugins.module_utils.checks.run import run_checks
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "dict", "default": {}},
            "root": {"type": "path", "default": "/"},
            "report_dir": {"type": "path"},
            "earlier": {"type": "path"},
            "show": {"type": "str", "choices": ["all", "problems", "none"], "default": "all"},
            "width": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    began = time.monotonic()
    try:
        policy = make_policy(module.params["policy"])
        host = read_host(module.params["root"], policy.packages, (policy.image_directory,))
        report = run_checks(host, policy).as_dict()
    except PolicyError as error:
        module.fail_json(msg=f"precheck: {error}")
    except OSError as error:
        module.fail_json(msg=f"precheck: {error.filename or module.params['root']}: {error.strerror}")
    report["host"] = host.system.hostname or "this host"
    report["checked"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    module.exit_json(changed=False, report=report, seconds=round(time.monotonic() - began, 4))


if __name__ == "__main__":
    main()
