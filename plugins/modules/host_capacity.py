#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_capacity
short_description: Say what a host has to give to runtimes
version_added: 0.1.0
description:
  - Reads the host as M(vllmd.platform.host_facts) does and returns what M(vllmd.platform.plan) needs of it, a few
    kilobytes. Cores and memory by NUMA node, without what the host keeps for itself. Passthrough units, each one IOMMU
    group or all groups of one card, with their accelerators, PCIe switch and NVLink island.
  - Nothing is changed. Devices need not be bound to vfio-pci yet. Those that never can be, because the host lives on
    one of their group, for example, are in RV(capacity.left_out) with the reason.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Nothing is ever changed.
    support: full
  diff_mode:
    description: Nothing is ever changed.
    support: none
options:
  name:
    description: The host's name in the inventory, which plans call it by.
    type: str
    required: true
  root:
    description: Where the host's files lie. Another directory than V(/) is a captured tree.
    type: path
    default: /
  devices:
    description:
      - What may be given to runtimes. PCI addresses, C(vendor:device), C(class:0302), or V(all), every accelerator of
        O(vendor). An empty list gives none.
    type: list
    elements: str
    default: [all]
  exclude:
    description: What stays with the host, in the same words.
    type: list
    elements: str
    default: []
  vendor:
    description: The PCI vendor id that V(all) means.
    type: str
    default: 10de
  boot_display:
    description: Whether the display that the host booted on may be given away.
    type: bool
    default: false
  shared_groups:
    description: Whether devices may be given away that merely share an IOMMU group with a chosen one.
    type: bool
    default: false
  reserve_cores:
    description:
      - Whole cores that the host keeps on each NUMA node, those with the lowest numbers. By default one of a node with
        eight or more, none of a smaller one.
    type: int
  reserve_memory:
    description:
      - Memory that the host keeps, such as V(8Gi), spread over its nodes. By default 2 GiB and a fiftieth of the
        memory, at most a quarter. Hugepages are set aside already, nothing of them is kept.
    type: str
  hugepages:
    description:
      - Whether memory comes out of the hugepage pool. V(auto) means where the pool holds a quarter of the memory or
        more.
    type: str
    choices: [auto, always, never]
    default: auto
  vmm_memory:
    description:
      - Memory that the virtual machine monitor of each replica takes beside its guest, such as V(300Mi). By default
        256 MiB, or 768 MiB where KVM does not work and guests are emulated. It does not come out of hugepages.
    type: str
  accelerators:
    description:
      - Accelerators that the collection does not know, or knows otherwise, by C(vendor:device). Each has C(type), the
        name that manifests use, C(memory_gib), and C(nvlink), whether NVLink joins those of one host.
    type: dict
    default: {}
seealso:
  - module: vllmd.platform.host_facts
  - module: vllmd.platform.plan
"""

EXAMPLES = r"""
- name: Know what the host can give
  vllmd.platform.host_capacity:
    name: "{{ inventory_hostname }}"
  register: host

- name: Keep four cores of each node and one GPU for the host, and name a card of ours
  vllmd.platform.host_capacity:
    name: "{{ inventory_hostname }}"
    reserve_cores: 4
    exclude: ["0000:01:00.0"]
    accelerators:
      "10de:2235": {type: nvidia-a40, memory_gib: 48}
"""

RETURN = r"""
capacity:
  description: What the host gives.
  returned: success
  type: dict
  contains:
    schema_version:
      description: V(1).
      type: int
    host:
      description: O(name).
      type: str
    nodes:
      description: NUMA nodes with CPUs. C(node), C(cores) (lists of logical CPUs), C(memory_mib), C(distances).
      type: list
      elements: dict
    hugepage_kib:
      description: Size of the pages that all memory comes in; V(0) is ordinary memory.
      type: int
    vmm_mib:
      description: MiB of that memory which go with each replica to its virtual machine monitor.
      type: int
    units:
      description: >-
        What can only be given away as a whole. C(groups), C(devices), C(accelerators), C(node), C(switch), C(island).
      type: list
      elements: dict
    left_out:
      description: Devices that were meant and cannot be given away, with the C(reason).
      type: list
      elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import quantities
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.placement.accelerators import AcceleratorError, known
from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import as_dict
from ansible_collections.vllmd.platform.plugins.module_utils.placement.from_host import Policy, capacity_of
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.choose import SelectionError
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.refuse import Policy as VfioPolicy


def _mib(params: dict[str, Any], name: str) -> int | None:
    """Return a quantity of memory in MiB, None where none is given. Raises QuantityError."""
    value = params[name]
    try:
        return None if value is None else quantities.to_mib(quantities.parse_bytes(value))
    except quantities.QuantityError as error:
        raise quantities.QuantityError(f"{name}: found {error}") from None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/"},
            "devices": {"type": "list", "elements": "str", "default": ["all"]},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "vendor": {"type": "str", "default": "10de"},
            "boot_display": {"type": "bool", "default": False},
            "shared_groups": {"type": "bool", "default": False},
            "reserve_cores": {"type": "int"},
            "reserve_memory": {"type": "str"},
            "vmm_memory": {"type": "str"},
            "hugepages": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
            "accelerators": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not Path(given["root"]).is_dir():
        module.fail_json(
            msg=f"root: {given['root']} is not a directory; name the directory that holds proc, sys and dev"
        )
    if given["reserve_cores"] is not None and given["reserve_cores"] < 0:
        module.fail_json(msg=f"reserve_cores: found {given['reserve_cores']}; allowed: 0 or more")
    try:
        policy = Policy(
            devices=tuple(given["devices"]),
            exclude=tuple(given["exclude"]),
            vfio=VfioPolicy(given["vendor"].lower(), given["boot_display"], given["shared_groups"]),
            reserve_cores=given["reserve_cores"],
            reserve_memory_mib=_mib(given, "reserve_memory"),
            hugepages=given["hugepages"],
            vmm_memory_mib=_mib(given, "vmm_memory"),
            accelerators=known(given["accelerators"]),
        )
        capacity = capacity_of(read_host(given["root"]), given["name"], policy)
    except (quantities.QuantityError, AcceleratorError, SelectionError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, capacity=as_dict(capacity))


if __name__ == "__main__":
    main()
