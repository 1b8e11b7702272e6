# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: scale
short_description: Decide how many replicas each runtime should have
version_added: 0.1.0
description:
  - Compares what replicas tell of their load with what one should carry, and returns how many each runtime should have,
    with the reason. M(vllmd.platform.plan) then gives them places.
  - Runtimes that O(replicas) names get the number that it says, and no rule. The others stay as they are with
    O(by_rule=false).
  - A replica that does not tell its load never lets a runtime get smaller.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: The action runs on the controller alone.
    support: full
  check_mode:
    description: Decides as always, and remembers nothing.
    support: full
  diff_mode:
    description: Shows the numbers before and after.
    support: full
options:
  path:
    description:
      - File on the controller that remembers when each runtime changed and since when its load has been low. One that
        is missing or spoilt begins anew, as if all had just changed.
    type: path
    required: true
  plan:
    description: The plan's file. Nobody else plans into it while this decides.
    type: path
    required: true
  runtimes:
    description: The runtimes, as M(vllmd.platform.runtime_manifest) returns them.
    type: list
    elements: dict
    required: true
  loads:
    description: What M(vllmd.platform.runtime_load) returned on each host, put together, by replica.
    type: dict
    default: {}
  replicas:
    description: Numbers asked for by hand, by runtime, within C(minReplicas) and C(maxReplicas).
    type: dict
    default: {}
  by_rule:
    description: Whether the rule decides about runtimes that O(replicas) does not name.
    type: bool
    default: true
  requests:
    description: How many requests, running and waiting, one replica should carry. By default 16.
    type: float
  waiting:
    description: How many requests may wait for one replica on average before there is another. By default 2.
    type: float
  kv_cache:
    description: How much of its KV cache one replica should use, up to 1. By default 0.8.
    type: float
  margin:
    description: What part of that the remaining replicas must have to spare before one ends. By default 0.3.
    type: float
  step:
    description: How many replicas may be added at once. By default 2.
    type: int
  up_after:
    description: Seconds between a change and the next way up. By default 120.
    type: float
  down_after:
    description: Seconds that load must have been low, and since the last change, before a replica ends. By default 900.
    type: float
seealso:
  - module: vllmd.platform.runtime_load
  - module: vllmd.platform.plan
"""

EXAMPLES = r"""
- name: Decide how many there should be
  vllmd.platform.scale:
    path: "{{ inventory_dir }}/runtimes.scale.json"
    plan: "{{ inventory_dir }}/runtimes.plan.json"
    runtimes: "{{ manifests.runtimes }}"
    loads: "{{ ansible_play_hosts | map('extract', hostvars, ['read', 'loads']) | combine }}"
  run_once: true
  register: decided
"""

RETURN = r"""
replicas:
  description: How many replicas each runtime should have.
  returned: success
  type: dict
scaled:
  description: Those whose number is another than the plan's, with C(before), C(after) and C(reason).
  returned: success
  type: dict
lines:
  description: Each runtime's number and reason, for people.
  returned: success
  type: list
  elements: str
settings:
  description: How the plan was made, to plan again the same way.
  returned: success
  type: dict
"""
