#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_facts
short_description: Read everything about a host that decides device passthrough
version_added: 0.1.0
description:
  - Reads processors, KVM, the IOMMU and its groups, every PCI function with the open handles on it, displays, memory,
    huge pages, NUMA nodes, boot loader, kernel, modules, security posture, storage, network, installed software and
    limits from C(/proc), C(/sys), C(/dev) and a few configuration files. One call, no program is started.
  - Nothing is changed. Only KVM is tried, by making an empty virtual machine and letting it go.
  - What cannot be read is V(null) and never fails the task; files that were there and made no sense are named in
    RV(host.troubles). Run it as root, or other users' open handles, memory windows and ACS stay unknown.
  - The result's shape is in the collection's C(plugins/module_utils/schemas/host-v1.schema.json).
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
  root:
    description:
      - Where the host's files lie. Another directory than V(/) is a captured tree, for example a mounted snapshot.
    type: path
    default: /
  parts:
    description:
      - Which parts of the host to return; everything is read in any case. Without any all are returned.
    type: list
    elements: str
    default: []
seealso:
  - module: vllmd.platform.precheck
  - module: vllmd.platform.vfio_binding
"""

EXAMPLES = r"""
- name: Know the host
  vllmd.platform.host_facts:
  register: facts

- name: Name its GPUs, with group, driver and who holds them
  ansible.builtin.debug:
    msg: "group {{ item.iommu_group }}, driver {{ item.driver }}, held by {{ item.handles | map(attribute='command') }}"
  loop: "{{ facts.host.pci.devices.values() | selectattr('vendor_id', 'eq', '10de') }}"
  loop_control:
    label: "{{ item.bdf }}"

- name: Read only huge pages and NUMA nodes
  vllmd.platform.host_facts:
    parts: [memory, numa]
"""

RETURN = r"""
host:
  description: The host, or those of its parts that were asked for. Sizes and units are in the names.
  returned: success
  type: dict
  contains:
    schema_version:
      description: V(1).
      type: int
    system:
      description: Machine, firmware, operating system, and what this host itself runs in.
      type: dict
    cpu:
      description: Vendor, model, flags, sockets and cores, isolated CPUs, vulnerabilities.
      type: dict
    kvm:
      description: Whether KVM works, and why not.
      type: dict
      sample: {works: false, trouble: "/dev/kvm does not exist"}
    iommu:
      description: Firmware tables, units, groups by number, default domain, interrupt remapping, unsafe switches.
      type: dict
    pci:
      description: C(devices), every PCI function by address, and C(windows), the root buses' memory.
      type: dict
    graphics:
      description: Boot display, framebuffers and who sits in a display's BAR.
      type: dict
    memory:
      description: Memory and huge pages by size and node.
      type: dict
    numa:
      description: NUMA nodes with CPUs, memory and distances.
      type: dict
    boot:
      description: Kernel command line, firmware, boot loader and its files, initramfs tool.
      type: dict
    kernel:
      description: Release and the build options that matter.
      type: dict
    modules:
      description: Loaded modules, where others are, modprobe.d, NVIDIA's driver.
      type: dict
    security:
      description: Secure Boot, lockdown, module signatures, mitigations.
      type: dict
    storage:
      description: Block devices down to their PCI functions, what is mounted or swapped on, free space.
      type: dict
    network:
      description: Interfaces down to their PCI functions, and those that the host must keep.
      type: dict
    vmm:
      description: Virtual machine monitors and firmware files.
      type: dict
    confidential:
      description: SEV, SEV-SNP and TDX as the host offers them.
      type: dict
    packages:
      description: Installed packages that matter.
      type: dict
    limits:
      description: Limits of locked memory and others.
      type: dict
    cgroups:
      description: Layout and controllers.
      type: dict
    time:
      description: Time synchronisation.
      type: dict
    processes:
      description: How many processes could be searched for open handles.
      type: dict
    nodes:
      description: Device nodes by path, with permissions and owners.
      type: dict
    troubles:
      description: Files that were there and could not be used.
      type: list
      elements: dict
"""

from dataclasses import fields
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.host.codec import as_dict
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "parts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    root, parts = module.params["root"], module.params["parts"]
    known = [field.name for field in fields(Host)]
    unknown = [part for part in parts if part not in known]
    if unknown:
        module.fail_json(msg=f"parts: {unknown[0]!r} is not a part of a host; known are {', '.join(known)}")
    if not Path(root).is_dir():
        module.fail_json(msg=f"root: {root} is not a directory; name the directory that holds proc, sys and dev")
    host = read_host(root)
    module.exit_json(
        changed=False, host={name: as_dict(getattr(host, name)) for name in known if not parts or name in parts}
    )


if __name__ == "__main__":
    main()
