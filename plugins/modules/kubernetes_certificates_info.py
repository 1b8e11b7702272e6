#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_certificates_info
short_description: List the certificates of a Kubernetes host with the days that are left
version_added: 0.1.0
description:
  - Reads what kubeadm keeps in C(/etc/kubernetes), kubeconfigs with certificates inside among it, what the kubelet has
    in C(/var/lib/kubelet/pki), copies of the administrator's kubeconfig, and further files.
  - What cannot be read is listed with the reason. No key is read.
author:
  - vllmd.platform maintainers (@vllmd)
requirements:
  - cryptography
  - PyYAML
attributes:
  check_mode:
    description: Changes nothing at all.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  days:
    description: Days before its end from which a certificate is due; at most the last third of its life.
    type: float
    default: 30
  files:
    description: Further files, PEM or kubeconfigs.
    type: list
    elements: path
    default: []
seealso:
  - module: vllmd.platform.kubernetes_certificates
"""

EXAMPLES = r"""
- name: List the certificates
  vllmd.platform.kubernetes_certificates_info:
  register: found

- name: Refuse what has expired
  ansible.builtin.assert:
    that: found.certificates | selectattr('state', 'equalto', 'expired') | length == 0
"""

RETURN = r"""
certificates:
  description: One entry for each certificate in each place.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: What it is called, such as V(apiserver), V(admin.conf), V(kubelet-client-current).
      type: str
    path:
      description: The file that it is in.
      type: str
    days_left:
      description: Days until it ends, negative afterwards; none for one that cannot be read.
      type: float
    expires:
      description: When it ends, in UTC.
      type: str
    state:
      description: V(ok), V(due), V(expired), V(early) (its time has not come), or V(unreadable).
      type: str
    renewal:
      description: >-
        Who renews it: V(kubeadm) (run by this collection), V(collection), V(kubelet) (by itself), V(rotation) (an
        authority), V(nobody).
      type: str
    authority:
      description: Whether it may issue others.
      type: bool
    subject:
      description: Whose it is.
      type: str
    issuer:
      description: Who issued it.
      type: str
    names:
      description: Names and addresses in it.
      type: list
      elements: str
    trouble:
      description: Why it cannot be read.
      type: str
rotation:
  description: The rotation that is under way, by what has a position; empty without one.
  returned: success
  type: dict
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import inventory, libraries, store

ROOT = Path("/")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "days": {"type": "float", "default": 30},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    if missing := libraries.missing():
        module.fail_json(msg=missing_required_lib(missing))
    try:
        entries = inventory.of_host(ROOT, datetime.now(UTC), module.params["days"], module.params["files"])
        under_way = {part: found.record for part in store.PARTS if (found := store.read(ROOT, part)) is not None}
    except NodeError as error:
        module.fail_json(msg=f"certificates: {error}")
    except OSError as error:
        module.fail_json(msg=f"certificates: {error.filename}: {error.strerror}")
    module.exit_json(
        changed=False,
        certificates=[entry.row() for entry in entries],
        rotation={part: asdict(record) for part, record in under_way.items()},
    )


if __name__ == "__main__":
    main()
