#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_member_secrets
short_description: Keep what all members of a control plane share and nobody else may know
version_added: 0.1.0
description:
  - The key that etcd's secrets are encrypted with, and the word by which the members' keepalived know each other. Made
    once, on the first member; the others are given the same.
  - A member whose key is another one is refused, because what one API server wrote the other could not read.
  - Register the result with C(no_log).
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Makes secrets that nobody keeps.
    support: full
  diff_mode:
    description: There is nothing to show of a secret.
    support: none
options:
  state:
    description: V(read) says what is there, V(present) makes or takes them.
    type: str
    choices: [read, present]
    default: present
  path:
    description: The file that has them, for root alone.
    type: path
    required: true
  secrets:
    description: Those of the other members. Empty, new ones are made where there are none.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Make them
  vllmd.platform.kubernetes_member_secrets:
    path: /etc/vllmd/runtime-controller/secrets.json
  register: made
  no_log: true
"""

RETURN = r"""
secrets:
  description: encryption_key (32 bytes in base64) and vrrp_word; empty when there are none.
  returned: success
  type: dict
"""

import base64
import json
import secrets as random
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError

NAMES = {"encryption_key", "vrrp_word"}
KEY_BYTES = 32


def read(path: Path) -> dict[str, str]:
    """Return the secrets that the file has, nothing when it is not there. Raises NodeError, OSError."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or set(found) != NAMES or not is_key(str(found["encryption_key"])):
        raise NodeError(f"{path} is damaged; restore it from another member or from a backup")
    return {str(key): str(value) for key, value in found.items()}


def made() -> dict[str, str]:
    """Return new ones: 32 bytes for the key; keepalived reads eight characters of its word."""
    return {
        "encryption_key": base64.b64encode(random.token_bytes(KEY_BYTES)).decode("ascii"),
        "vrrp_word": random.token_hex(4),
    }


def keep(path: Path, current: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    """Return the secrets that hold from now on. Raises NodeError when the member has others than those given."""
    if current and wanted and current["encryption_key"] != wanted.get("encryption_key"):
        raise NodeError(
            f"{path} has another encryption key than the other members; it is from another cluster: if this host is no "
            "member yet, remove the file and run this again"
        )
    if wanted and not (set(wanted) == NAMES and is_key(wanted["encryption_key"])):
        raise NodeError(f"secrets are {', '.join(sorted(NAMES))}, the first of them 32 bytes in base64")
    return dict(wanted) or current or made()


def is_key(text: str) -> bool:
    """Return whether the text is 32 bytes in base64, which is what secretbox takes."""
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except ValueError:
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", "present"], "default": "present"},
            "path": {"type": "path", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    try:
        current = read(path)
        if given["state"] == "read":
            module.exit_json(changed=False, secrets=current)
        kept = keep(path, current, given["secrets"])
        if kept != current and not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(path, f"{json.dumps(kept, sort_keys=True)}\n".encode(), 0o600)
    except NodeError as error:
        module.fail_json(msg=f"secrets: {error}")
    except OSError as error:
        module.fail_json(msg=f"secrets: {error.filename}: {error.strerror}")
    module.exit_json(changed=kept != current, secrets=kept)


if __name__ == "__main__":
    main()
