#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: config_image
short_description: Write a runtime's config image
version_added: 0.1.0
description:
  - Writes the read-only disk that tells a guest who it is, an ISO 9660 image with the label C(CIDATA).
  - It holds C(vllmd/runtime.json), which a guest of this collection reads, and the NoCloud files C(meta-data),
    C(user-data) and C(network-config) (version 2), which cloud-init in a stock cloud image reads.
  - The same content gives the same bytes, on every host and at any time; the image is only replaced, as a whole, when
    its bytes differ.
author:
  - vllmd.platform maintainers (@vllmd)
extends_documentation_fragment:
  - files
attributes:
  check_mode:
    description: The image is made and compared, but not written.
    support: full
  diff_mode:
    description: Shows C(vllmd/runtime.json) before and after; values of C(environment) and tokens are hidden.
    support: full
options:
  path:
    description: Where the image is written. The directory must exist.
    type: path
    required: true
  guest:
    description:
      - The content of C(vllmd/runtime.json), schema version 1, as RV(vllmd.platform.runtime_manifest#module:runtimes)
        returns it in C(guest).
      - Required when O(state=present).
    type: dict
  kubernetes_token:
    description:
      - The bootstrap token of the cluster that the guest joins. Required when O(guest) has C(kubernetes), which comes
        without one.
      - A guest joins once, and a running one needs no token. So an image that differs in the token alone is replaced
        but keeps its modification time, by which role hypervisor decides to restart.
    type: str
  keep_kubernetes_token:
    description:
      - Without O(kubernetes_token), keep the token of the image that is there, so that an image which nothing else
        changes stays as it is. In check mode an image without one counts as one to be written.
    type: bool
    default: false
  state:
    description: Whether the image exists.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description:
      - The image's permission bits. Others than owner and group have no access by default, since an engine's
        environment may hold a token.
    default: '0640'
requirements:
  - xorriso
seealso:
  - module: vllmd.platform.runtime_manifest
"""

EXAMPLES = r"""
- name: Read the runtimes
  vllmd.platform.runtime_manifest:
    path: runtimes/
  register: manifests

- name: Write their config images
  vllmd.platform.config_image:
    path: "/var/lib/vllmd/runtimes/{{ item.metadata.name }}/config.iso"
    guest: "{{ item.guest }}"
  loop: "{{ manifests.runtimes }}"
  loop_control:
    label: "{{ item.metadata.name }}"
"""

RETURN = r"""
sha256:
  description: The image's digest.
  returned: when O(state=present) and the image could be made
  type: str
kubernetes_token_id:
  description: The id, which is no secret, of the bootstrap token on the image; empty when there is none.
  returned: when O(state=present) and the image could be made
  type: str
size_bytes:
  description: The image's size.
  returned: when O(state=present) and the image could be made
  type: int
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from shutil import which
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic, config_iso, guest_config

#: Stands for one that a run which is no dry one would make.
_NOBODYS_TOKEN = "000000.0000000000000000"  # noqa: S105 -- opens nothing


def difference(path: Path, before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """Return Ansible's diff of two ``runtime.json`` dicts without the values of the environment."""
    shown: list[str] = []
    old = before.get("environment", {})
    for guest in (guest_config.without_secrets(before), guest_config.without_secrets(after)):
        hidden = {
            name: "(hidden)" if not shown or old.get(name) == value else "(hidden, changed)"
            for name, value in guest.get("environment", {}).items()
        }
        text = json.dumps({**guest, "environment": hidden}, indent=2, sort_keys=True) + "\n" if guest else ""
        shown.append(text)
    header = f"{path}:{config_iso.RUNTIME_FILE}"
    return {"before_header": header, "after_header": header, "before": shown[0], "after": shown[1]}


def same_but_for_secrets(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether two ``runtime.json`` dicts differ in a token at most."""
    return guest_config.without_secrets(before) == guest_config.without_secrets(after)


def kept_token(module: AnsibleModule, path: Path, work: Path) -> str:
    """Return the token of the image that is there, when it is to stay; empty when there is none."""
    if not module.params["keep_kubernetes_token"] or "kubernetes" not in module.params["guest"]:
        return ""
    kept = guest_config.token_of(config_iso.read_guest(path, work))
    return kept or (_NOBODYS_TOKEN if module.check_mode else "")


def present(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Make the image and replace ``path`` when its bytes differ. Returns the task's result."""
    result: dict[str, Any] = {"changed": False}
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as name:
        work = Path(name)
        token = module.params["kubernetes_token"] or kept_token(module, path, work)
        guest = guest_config.with_token(module.params["guest"], token)
        result["kubernetes_token_id"] = guest_config.token_of(guest).partition(".")[0]
        if module.check_mode and which("xorriso") is None:
            module.warn("xorriso is not installed yet, so the config image cannot be compared")
            return {**result, "changed": True, "diff": difference(path, {}, guest)}
        image = config_iso.make(guest_config.config_files(guest), work)
        result.update(sha256=hashlib.sha256(image).hexdigest(), size_bytes=len(image))
        exists = path.is_file()
        if not exists or path.read_bytes() != image:
            result["changed"] = True
            before = config_iso.read_guest(path, work) if exists else {}
            result["diff"] = difference(path, before, guest)
            if not module.check_mode:
                written = path.stat() if exists else None
                atomic.write_file(path, image, 0o640)
                if written and before != guest and same_but_for_secrets(before, guest):
                    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    if path.is_file():
        arguments = module.load_file_common_arguments(module.params)
        result["changed"] = module.set_fs_attributes_if_different(arguments, result["changed"])
    return result


def absent(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Remove the image. Returns the task's result."""
    exists = path.is_file() or path.is_symlink()
    if exists and not module.check_mode:
        path.unlink()
    header = {"path": str(path)}
    return {"changed": exists, "diff": {"before": {**header, "exists": exists}, "after": {**header, "exists": False}}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "guest": {"type": "dict"},
            "kubernetes_token": {"type": "str", "no_log": True},
            "keep_kubernetes_token": {"type": "bool", "default": False, "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "mode": {"type": "raw", "default": "0640"},
        },
        required_if=[("state", "present", ("guest",))],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    try:
        result = present(module, path) if module.params["state"] == "present" else absent(module, path)
    except (config_iso.IsoError, guest_config.ConfigError) as error:
        module.fail_json(msg=str(error))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        module.fail_json(msg=f"guest is no runtime.json of schema version 1 ({reason}); give runtime_manifest's guest")
    except OSError as error:
        module.fail_json(msg=f"cannot write the config image {path}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
