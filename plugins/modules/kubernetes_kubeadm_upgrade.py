#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_kubeadm_upgrade
short_description: Let kubeadm upgrade what is on this host
version_added: 0.1.0
description:
  - Runs C(kubeadm upgrade plan), C(apply) or C(node) with the kubeadm that is installed, after it was found to have the
    version. Which host gets what is the plan of M(vllmd.platform.kubernetes_upgrade).
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says that it would be run. V(plan) runs in any mode where this kubeadm is installed.
    support: full
  diff_mode:
    description: Shows the call.
    support: full
options:
  step:
    description:
      - V(plan) asks kubeadm whether it would do it, V(apply) is for the first member, V(node) for every other host.
    type: str
    choices: [plan, apply, node]
    required: true
  version:
    description: The version to upgrade to, all three parts.
    type: str
    required: true
  patches:
    description: Directory of patches that kubeadm applies, from version 1.25 on.
    type: path
    default: ""
  ignore_preflight_errors:
    description: Names of kubeadm's own checks to pass over; V(all) is not possible.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds until kubeadm must have ended.
    type: int
    default: 900
"""

EXAMPLES = r"""
- name: Upgrade the first member
  vllmd.platform.kubernetes_kubeadm_upgrade:
    step: apply
    version: 1.33.1
"""

RETURN = r"""
installed:
  description: The version of the kubeadm that is installed.
  returned: success
  type: str
seconds:
  description: How long kubeadm took.
  returned: success
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import run
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade import kubeadm


def installed() -> versions.Version:
    """Return the version of the kubeadm that is there. Raises NodeError."""
    done = run(["kubeadm", "version", "--output=short"], timeout_seconds=30)
    if done.status != 0:
        raise NodeError(f"kubeadm does not say its version: {done.last_line}")
    return versions.parse(done.output, "kubeadm")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["plan", "apply", "node"], "required": True},
            "version": {"type": "str", "required": True},
            "patches": {"type": "path", "default": ""},
            "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    given = module.params
    seconds, step = 0.0, given["step"]
    try:
        target, here = versions.parse(given["version"], "upgrade_version"), installed()
        if "all" in [name.lower() for name in given["ignore_preflight_errors"]]:
            raise NodeError("ignore_preflight_errors: all is not possible; name those that are meant")
        argv = kubeadm.argv(step, target, given["patches"], given["ignore_preflight_errors"])
        if here != target and not module.check_mode:
            raise NodeError(f"kubeadm is {here} and {target} is wanted; its package was not installed")
        if (step == kubeadm.PLAN and here == target) or not module.check_mode:
            began = time.monotonic()
            done = run(argv, timeout_seconds=given["timeout"])
            seconds = round(time.monotonic() - began, 1)
            if done.status != 0:
                raise NodeError(f"'{' '.join(argv[:3])}' failed: {kubeadm.reason(done.said)}")
    except NodeError as error:
        module.fail_json(msg=f"upgrade: {error}")
    changed = step != kubeadm.PLAN
    module.exit_json(
        changed=changed,
        installed=str(here),
        seconds=seconds,
        diff={"before": "", "after": f"{' '.join(argv)}\n" if changed else ""},
    )


if __name__ == "__main__":
    main()
