#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vfio_cmdline
short_description: Put the IOMMU's parameters on the kernel's command line
version_added: 0.1.0
description:
  - Adds what passthrough needs on this host (C(intel_iommu=on) on Intel, nothing on AMD and Arm) and what is asked for
    to the command line in the boot loader's files. Nothing that is there is replaced, and the previous files are kept.
  - For GRUB it writes a file in F(/etc/default/grub.d), for systemd-boot it extends F(/etc/kernel/cmdline) and the
    loader's entries.
  - Says whether the running kernel lacks any of it.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be changed, and does nothing.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
options:
  state:
    description: V(absent) takes away exactly what was added.
    type: str
    choices: [present, absent]
    default: present
  parameters:
    description: Further parameters, each one word C(name) or C(name=value).
    type: list
    elements: str
    default: []
  boot_loader:
    description: Whose files to change. With V(none) nothing is written, and what lacks is said.
    type: str
    choices: [auto, grub, systemd-boot, none]
    default: auto
seealso:
  - module: vllmd.platform.vfio_binding
"""

EXAMPLES = r"""
- name: Switch the IOMMU on from the next boot
  vllmd.platform.vfio_cmdline:
  register: cmdline

- name: Make GRUB's menu again
  ansible.builtin.command: update-grub
  when: cmdline.boot_loader_stale
"""

RETURN = r"""
boot_loader:
  description: The boot loader whose files hold the command line; V(none) when no one's do.
  returned: success
  type: str
parameters:
  description: What the command line must have.
  returned: success
  type: list
  elements: str
unmet:
  description: Those of them that the running kernel lacks.
  returned: success
  type: list
  elements: str
iommu:
  description: Whether the running kernel drives an IOMMU.
  returned: success
  type: bool
reboot_needed:
  description: Whether the next boot brings what the running kernel lacks.
  returned: success
  type: bool
boot_loader_stale:
  description: Whether GRUB's configuration must be made again, because of this run or of one before it.
  returned: success
  type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.cmdline import CmdlineError
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.cmdline_files import Files


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "parameters": {"type": "list", "elements": "str", "default": []},
            "boot_loader": {"type": "str", "choices": ["auto", "grub", "systemd-boot", "none"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    params = module.params
    root = Path("/")
    try:
        host = read_host(str(root))
        files = Files(root, host, params["boot_loader"])
        result = files.bring(params["parameters"], params["state"] == "present", module.check_mode)
    except CmdlineError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"kernel command line: {error.filename or ''} {error.strerror or error}")
    module.exit_json(
        changed=bool(result.changes),
        boot_loader=result.loader,
        parameters=list(result.parameters),
        unmet=list(result.unmet),
        iommu=host.iommu.is_on,
        reboot_needed=result.reboot_needed,
        boot_loader_stale=result.stale,
        diff=result.diff(),
    )


if __name__ == "__main__":
    main()
