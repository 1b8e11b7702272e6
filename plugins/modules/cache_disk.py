#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cache_disk
short_description: Make the disk on which a guest keeps its caches
version_added: 0.1.0
description:
  - Makes a sparse file with an empty ext4 file system labelled C(VLLMD_CACHE), which a guest of this collection mounts
    to keep models and compiled kernels from one start to the next.
  - A disk that is there stays as it is, whatever size is asked for, because it may be in use. A file that holds
    anything else is refused and never overwritten.
author:
  - vllmd.platform maintainers (@vllmd)
extends_documentation_fragment:
  - files
attributes:
  check_mode:
    description: Nothing is made.
    support: full
  diff_mode:
    description: Shows whether the disk exists, and its size.
    support: full
options:
  path:
    description: Where the disk is. The directory must exist.
    type: path
    required: true
  size_mib:
    description: The size in MiB of a disk that is made.
    type: int
    required: true
  mode:
    description: Permission bits of the disk.
    default: '0660'
requirements:
  - mkfs.ext4
"""

EXAMPLES = r"""
- name: Keep 200 GiB of models for a runtime
  vllmd.platform.cache_disk:
    path: /var/lib/vllmd/runtimes/r1/cache.raw
    size_mib: 204800
"""

RETURN = r"""
size_mib:
  description: The disk's size.
  returned: success
  type: int
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic

LABEL = "VLLMD_CACHE"
SMALLEST_MIB = 64
MIB = 1024 * 1024
# fs/ext4/ext4.h: the superblock begins at 1024; in it the magic at 56 and the volume name at 120.
_MAGIC = 1024 + 56
_NAME = 1024 + 120


def label_of(path: Path) -> str | None:
    """Return the label of the ext4 file system in ``path``; None when there is no such file system."""
    with path.open("rb") as stream:
        head = stream.read(2048)
    if head[_MAGIC : _MAGIC + 2] != b"\x53\xef":
        return None
    return head[_NAME : _NAME + 16].rstrip(b"\0").decode("utf-8", "replace")


def make(module: AnsibleModule, path: Path, size_mib: int) -> None:
    """Make the disk beside ``path`` and put it in place when it is whole."""
    new = atomic.sibling(path)
    try:
        with new.open("wb") as stream:
            stream.truncate(size_mib * MIB)
        command = ["mkfs.ext4", "-q", "-F", "-L", LABEL, "-m", "0", "-E", "lazy_itable_init=1", str(new)]
        module.run_command(command, check_rc=True)
        atomic.replace_file(new, path)
    finally:
        new.unlink(missing_ok=True)


def present(module: AnsibleModule) -> dict[str, Any]:
    """Make the disk when it is missing. Returns the task's result."""
    path, size_mib = Path(module.params["path"]), module.params["size_mib"]
    if size_mib < SMALLEST_MIB:
        module.fail_json(msg=f"size_mib is {size_mib}; a cache disk has at least {SMALLEST_MIB}")
    if path.exists():
        label = label_of(path) if path.is_file() else None
        if label != LABEL:
            found = "is no file with an ext4 file system" if label is None else f"has the label {label!r}"
            module.fail_json(
                msg=f"{path} {found}, not a cache disk labelled {LABEL}; move it away or name another path"
            )
        found_mib = path.stat().st_size // MIB
        if found_mib != size_mib:
            module.warn(f"{path} keeps its {found_mib} MiB; to have {size_mib}, stop the runtime and remove the file")
        changed = module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params), False)
        return {"changed": changed, "size_mib": found_mib}
    if not path.parent.is_dir() and not module.check_mode:
        module.fail_json(msg=f"{path.parent} is no directory; make it first")
    if not module.check_mode:
        make(module, path, size_mib)
        module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params), False)
    diff = {"before": {"exists": False}, "after": {"exists": True, "size_mib": size_mib}}
    return {"changed": True, "size_mib": size_mib, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "size_mib": {"type": "int", "required": True},
            "mode": {"type": "raw", "default": "0660"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        result = present(module)
    except OSError as error:
        module.fail_json(msg=f"cannot make the cache disk {module.params['path']}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
