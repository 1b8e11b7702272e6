#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_certificates
short_description: Renew the certificates of a control plane's host, and let its components take them
version_added: 0.1.0
description:
  - Renews by C(kubeadm certs renew) what kubeadm issued and is due, and by itself what else the cluster's authority
    issued and somebody named.
  - Components that read their certificates only when they start are started again, one after the other, each until it
    is well; those that run with an older file than is there, too. The API server and etcd read theirs again.
  - Authorities are not renewed; M(vllmd.platform.kubernetes_rotation) replaces them.
author:
  - vllmd.platform maintainers (@vllmd)
requirements:
  - cryptography
  - PyYAML
attributes:
  check_mode:
    description: Says what would be renewed and started again.
    support: full
  diff_mode:
    description: Shows the same, line by line.
    support: full
options:
  days:
    description: Days before its end from which a certificate is due; at most the last third of its life.
    type: float
    default: 30
  everything:
    description: Renew what is not due, too.
    type: bool
    default: false
  kubeconfigs:
    description: Further kubeconfigs with a certificate of the cluster's authority inside.
    type: list
    elements: path
    default: []
  units:
    description: Systemd units that are started again when one of them has changed.
    type: list
    elements: str
    default: []
  kubeadm:
    description: The program. Where there is none, certificates are issued with the authorities' keys on this host.
    type: str
    default: kubeadm
  timeout:
    description: Seconds that each component gets to be well again.
    type: int
    default: 180
seealso:
  - module: vllmd.platform.kubernetes_certificates_info
"""

EXAMPLES = r"""
- name: Renew what is due
  vllmd.platform.kubernetes_certificates:
  throttle: 1
"""

RETURN = r"""
renewed:
  description: Files whose certificate was renewed.
  returned: success
  type: list
  elements: str
restarted:
  description: Components and units that were started again.
  returned: success
  type: list
  elements: str
"""

from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import libraries, renewal

ROOT = Path("/")
#: The same that the timer's program holds.
LOCK = Path("/run/lock/vllmd-kubernetes-certificates.lock")
_WAIT_SECONDS = 600


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "days": {"type": "float", "default": 30},
            "everything": {"type": "bool", "default": False},
            "kubeconfigs": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "kubeadm": {"type": "str", "default": "kubeadm"},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    if missing := libraries.missing():
        module.fail_json(msg=missing_required_lib(missing))
    given = module.params
    options = renewal.Options(
        days=given["days"],
        everything=given["everything"],
        kubeadm=given["kubeadm"],
        kubeconfigs=given["kubeconfigs"],
        units=given["units"],
        timeout_seconds=given["timeout"],
    )
    try:
        with locks.exclusive(LOCK, "renewing certificates", _WAIT_SECONDS):
            done = renewal.renew(ROOT, datetime.now(UTC), options, check=module.check_mode)
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"certificates: {error}")
    except OSError as error:
        module.fail_json(msg=f"certificates: {error.filename}: {error.strerror}")
    lines = [f"renew {path}" for path in done.renewed] + [f"restart {name}" for name in done.restarted]
    result = {
        "changed": bool(lines),
        "renewed": list(done.renewed),
        "restarted": list(done.restarted),
        "diff": {"before": "", "after": "".join(f"{line}\n" for line in lines)},
    }
    if done.left:
        module.fail_json(msg=f"certificates: not renewed: {'; '.join(done.left)}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
