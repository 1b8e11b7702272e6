#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vfio_binding
short_description: Give PCI devices to vfio, whole IOMMU groups at a time, and give them back
version_added: 0.1.0
description:
  - Binds accelerators, with all functions of their cards and all endpoints of their IOMMU groups, to vfio-pci or to the
    variant driver that the kernel has for them.
  - Before the first write every reason against it is looked for, and all that are found are reported. Then each group
    is bound completely or put back completely; every driver is read back.
  - What a device was is recorded before it is touched. A run that was killed is undone by the next one.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows drivers and files before and after.
    support: full
options:
  state:
    description:
      - V(bound) binds O(devices). Devices bound by an earlier task stay bound.
      - V(unbound) gives O(devices), or all that were bound when that is empty, back to the drivers they had, and
        removes the files that are not needed any more.
    type: str
    choices: [bound, unbound]
    default: bound
  devices:
    description:
      - Which devices. An address (V(0000:41:00.0) or V(41:00.0)), C(vendor:device) (V(10de:2330)), a class
        (V(class:0302); 2, 4 or 6 digits) or V(all), every accelerator of O(vendor).
      - Required with O(state=bound).
    type: list
    elements: str
    default: []
  exclude:
    description: Devices to leave alone, in the same words.
    type: list
    elements: str
    default: []
  vendor:
    description: The PCI vendor id of the accelerators, 4 hexadecimal digits.
    type: str
    default: 10de
  nvswitches:
    description: Whether V(all) in O(devices) means the vendor's NVSwitches, too.
    type: bool
    default: false
  boot_display:
    description: Whether the display that the host booted on may be taken. The host's console is lost then.
    type: bool
    default: false
  shared_groups:
    description: Whether devices may be taken that were not chosen but are in the IOMMU group of one that was.
    type: bool
    default: false
  stop_services:
    description:
      - Systemd units that may be stopped when they have a device open, such as V(nvidia-persistenced).
      - They are started again when nothing was bound, when other devices of the vendor are left, or when everything has
        been given back.
    type: list
    elements: str
    default: []
  handles_timeout:
    description: Seconds to wait until nobody has a device open.
    type: int
    default: 0
  step_timeout:
    description: Seconds that each step of each device may take.
    type: int
    default: 30
  persistent:
    description: Whether the binding holds over reboots.
    type: bool
    default: true
  node_group:
    description: The group that owns C(/dev/vfio/N). By default no rule is written for that.
    type: str
    default: ""
  lock_timeout:
    description: Seconds to wait while another process binds devices.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Give every NVIDIA GPU but one to virtual machines
  vllmd.platform.vfio_binding:
    devices: [all]
    exclude: ["0000:01:00.0"]
    stop_services: [nvidia-persistenced, nvidia-dcgm]

- name: Give everything back
  vllmd.platform.vfio_binding:
    state: unbound
"""

RETURN = r"""
groups:
  description: The IOMMU groups, each with its device node, its devices' addresses and what was done.
  returned: always
  type: list
  elements: dict
  sample:
    - group: 12
      node: /dev/vfio/12
      devices: ["0000:41:00.0", "0000:41:00.1"]
      action: bound
refusals:
  description: Every reason not to bind, with the rule that it comes from and what to do about it.
  returned: always
  type: list
  elements: dict
  sample:
    - code: in_use
      device: "0000:41:00.0"
      group: 12
      reason: is open in process 1234 (python3, /dev/nvidia0)
      remedy: stop them first
messages:
  description: One line for everything that was done or undone.
  returned: always
  type: list
  elements: str
initramfs_stale:
  description: Whether the initramfs must be made again, because of this run or of one before it.
  returned: always
  type: bool
initramfs:
  description: What makes the initramfs, V(initramfs-tools), V(dracut) or another one; empty when nothing does.
  returned: always
  type: str
systemd:
  description: Whether systemd runs the host.
  returned: always
  type: bool
remaining:
  description: How many devices are recorded as bound after the task.
  returned: always
  type: int
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.choose import SelectionError
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.outcome import Options, Outcome, Outside
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.plan import Request
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import FileStore, RecordError
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.refuse import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.run import STATE_DIRECTORY, Run
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.services import ServiceError, Systemd
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.sysfs import RealSysfs

LOCK = Path("/run/lock/vllmd-vfio.lock")


def options(params: dict[str, Any]) -> Options:
    """Return what is asked for."""
    policy = Policy(params["vendor"].lower(), params["boot_display"], params["shared_groups"])
    request = Request(tuple(params["devices"]), tuple(params["exclude"]), params["nvswitches"], policy)
    return Options(
        request=request,
        stop_services=tuple(params["stop_services"]),
        handles_seconds=params["handles_timeout"],
        step_seconds=params["step_timeout"],
        persistent=params["persistent"],
        node_group=params["node_group"],
    )


def act(module: AnsibleModule) -> tuple[Outcome, int]:
    """Do it. Returns the outcome and how many devices are recorded as bound."""
    root = Path("/")
    store = FileStore(root / STATE_DIRECTORY / "record.json")
    outside = Outside(RealSysfs(root), store, lambda: read_host(str(root)), Systemd(), root, module.check_mode)
    run = Run(outside, options(module.params))
    outcome = run.bind() if module.params["state"] == "bound" else run.give_back()
    return outcome, run.remaining


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["bound", "unbound"], "default": "bound"},
            "devices": {"type": "list", "elements": "str", "default": []},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "vendor": {"type": "str", "default": "10de"},
            "nvswitches": {"type": "bool", "default": False},
            "boot_display": {"type": "bool", "default": False},
            "shared_groups": {"type": "bool", "default": False},
            "stop_services": {"type": "list", "elements": "str", "default": []},
            "handles_timeout": {"type": "int", "default": 0},
            "step_timeout": {"type": "int", "default": 30},
            "persistent": {"type": "bool", "default": True},
            "node_group": {"type": "str", "default": ""},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    if module.params["state"] == "bound" and not module.params["devices"]:
        module.fail_json(msg="devices is empty: name what to bind, such as all or 0000:41:00.0")
    try:
        if module.check_mode:
            outcome, remaining = act(module)
        else:
            with locks.exclusive(LOCK, "binding devices", module.params["lock_timeout"]):
                outcome, remaining = act(module)
    except (SelectionError, RecordError, ServiceError, locks.LockedError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'the host'}: {error.strerror or error}")
    for warning in outcome.warnings:
        module.warn(warning)
    refusals = [
        {"code": each.code, "device": each.bdf, "group": each.group, "reason": each.reason, "remedy": each.remedy}
        for each in outcome.refusals
    ]
    result = {
        "changed": outcome.changed,
        "groups": outcome.groups,
        "refusals": refusals,
        "messages": outcome.messages,
        "initramfs": outcome.initramfs,
        "initramfs_stale": outcome.initramfs_stale,
        "systemd": outcome.is_systemd,
        "remaining": remaining,
        "diff": outcome.diff,
    }
    if outcome.errors:
        module.fail_json(msg=" | ".join(outcome.errors), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
