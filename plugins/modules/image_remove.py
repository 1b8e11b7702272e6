#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_remove
short_description: Remove an image from the image store
version_added: 0.1.0
description:
  - Removes one version or all versions of an image from the image store, and what an interrupted build left of it.
  - Refuses while a process, such as a running virtual machine, holds a file of it open.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Tells what would be removed.
    support: full
  diff_mode:
    description: Shows the versions before and after.
    support: full
options:
  name:
    description: The image's name in the store.
    type: str
    required: true
  version:
    description: The version to remove. Without it all versions are removed.
    type: str
  store_dir:
    description: The image store.
    type: path
    default: /var/lib/vllmd/images
  lock_timeout:
    description: Seconds to wait while another process builds the same image.
    type: int
    default: 0
seealso:
  - module: vllmd.platform.image_build
"""

EXAMPLES = r"""
- name: Remove every version of an image
  vllmd.platform.image_remove:
    name: vllmd-cpu
"""

RETURN = r"""
removed:
  description: The versions that were, or in check mode would be, removed.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import image_manifest, images, locks


def remove(module: AnsibleModule, store: Path, name: str, version: str | None) -> dict[str, Any]:
    """Remove what was asked for. Returns the task's result."""
    image_manifest.check_name(name)
    before = images.versions(store, name)
    removed = [each for each in before if version in (None, each)]
    used = [path for path in images.open_files(store / name) if any(part in removed for part in path.parts)]
    if used:
        raise image_manifest.ImageError(f"image file {used[0]} is in use; stop the runtime that uses it first")
    has_rest = version is None and (store / name).is_dir()
    if (removed or has_rest) and not module.check_mode:
        with locks.exclusive(images.lock_path(store, name), f"image {name}", module.params["lock_timeout"]):
            if version is None:
                images.remove_image(store, name)
            else:
                images.remove_version(store, name, version)
    after = [each for each in before if each not in removed]
    diff = {"before": {"versions": before}, "after": {"versions": after}}
    return {"changed": bool(removed or has_rest), "removed": removed, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str"},
            "store_dir": {"type": "path", "default": "/var/lib/vllmd/images"},
            "lock_timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = remove(module, Path(params["store_dir"]), params["name"], params["version"])
    except (image_manifest.ImageError, locks.LockedError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot remove image {params['name']}: {error.filename or ''} {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
