# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: plan
short_description: Decide which replica of which runtime runs where
version_added: 0.1.0
description:
  - Gives CPUs, memory and devices of hosts to the replicas of runtimes, and writes that as a plan. A replica gets whole
    cores, memory of NUMA nodes and whole IOMMU groups that are its own alone, near its accelerators.
  - What the plan in O(path) has stays where it is, unless its manifest, its host or its devices changed, or it is asked
    to move.
  - What does not fit is no failure; RV(plan.unplaced) says why, and the nearest that would fit.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: The action runs on the controller alone.
    support: full
  check_mode:
    description: Plans as always, and writes nothing.
    support: full
  diff_mode:
    description: Shows the placements before and after, one line for each.
    support: full
options:
  path:
    description:
      - The plan's file on the controller. What it holds is taken for what runs. Nobody else plans into it meanwhile.
    type: path
    required: true
  capacities:
    description: What the hosts give, each as RV(vllmd.platform.host_capacity#module:capacity).
    type: list
    elements: dict
    required: true
  runtimes:
    description: The runtimes, as M(vllmd.platform.runtime_manifest) returns them.
    type: list
    elements: dict
    required: true
  absent:
    description: Hosts of the inventory that could not be read or were not asked. What is on them is left as it is.
    type: list
    elements: str
    default: []
  cpu:
    description:
      - V(demand) gives what a manifest asks for. V(split) gives every accelerator its share of the cores of its NUMA
        node, and divides hosts without accelerators among their new replicas; never less than asked for.
    type: str
    choices: [demand, split]
    default: demand
  memory:
    description: The same for memory.
    type: str
    choices: [demand, split]
    default: demand
  accelerators:
    description: V(split) adds replicas up to C(maxReplicas) in turn while accelerators are free.
    type: str
    choices: [demand, split]
    default: demand
  strategy:
    description: V(pack) fills hosts one after the other, V(spread) takes the emptiest. A manifest may say otherwise.
    type: str
    choices: [pack, spread]
    default: pack
  numa:
    description: V(strict) places nothing whose CPUs and memory are not on the NUMA nodes of its accelerators.
    type: str
    choices: [prefer, strict]
    default: prefer
  replicas:
    description:
      - How many replicas are wanted, by runtime; kept within its C(minReplicas) and C(maxReplicas). Runtimes that are
        not named keep the number they have.
    type: dict
    default: {}
  move:
    description: Runtimes that may move to a better place, or to make room for what would not fit otherwise.
    type: list
    elements: str
    default: []
  drain:
    description: Hosts to empty. What fits nowhere else stays.
    type: list
    elements: str
    default: []
  preempt:
    description: Whether replicas of a lower priority leave for one of a higher that would not fit otherwise.
    type: bool
    default: false
  resize:
    description:
      - Whether CPUs and memory of hosts are divided again among what runs on them, as O(cpu) and O(memory) say now.
        Hosts and devices of the replicas stay.
    type: bool
    default: false
seealso:
  - module: vllmd.platform.host_capacity
  - module: vllmd.platform.runtime_manifest
"""

EXAMPLES = r"""
- name: Plan
  vllmd.platform.plan:
    path: "{{ inventory_dir }}/runtimes.plan.json"
    capacities: "{{ ansible_play_hosts | map('extract', hostvars, ['host', 'capacity']) }}"
    runtimes: "{{ manifests.runtimes }}"
  run_once: true
  register: planned

- name: Say what it changes
  ansible.builtin.debug:
    msg: "{{ planned.lines }}"
  run_once: true
"""

RETURN = r"""
plan:
  description: The plan; its shape is in the collection's C(plugins/module_utils/schemas/plan-v1.schema.json).
  returned: success
  type: dict
  contains:
    placements:
      description: What is to run, each with host, CPUs, memory by NUMA node, IOMMU groups and devices.
      type: list
      elements: dict
    changes:
      description: What this does to the plan before; C(action) is add, keep, move or remove, C(reason) says why.
      type: list
      elements: dict
    unplaced:
      description: Runtimes with replicas that do not fit, why, and the nearest that would.
      type: list
      elements: dict
    hosts:
      description: How full each host is.
      type: dict
    settings:
      description: How was planned.
      type: dict
    summary:
      description: How many replicas are added, kept, moved, removed, and how many do not fit.
      type: dict
lines:
  description: The plan as a table for people.
  returned: success
  type: list
  elements: str
path:
  description: O(path).
  returned: success
  type: str
"""
