#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_gc
short_description: Remove what a builder no longer needs
version_added: 0.1.0
description:
  - Removes old image versions, cached layers, wheels and models, what killed builds left, and logs of images that are
    gone.
  - An image version stays when it is the latest, among the newest O(keep), pinned, named by a runtime of this host, or
    open in a process or a loop device. A cached layer stays while a version that stays was made from it.
  - What somebody is making stays, and so does everything that a running build may use. Each removal is decided again
    under the lock that the makers hold.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Tells what would be removed, and how many bytes that frees.
    support: full
  diff_mode:
    description: Shows the paths before and after.
    support: full
options:
  store_dir:
    description: The image store.
    type: path
    default: /var/lib/vllmd/images
  cache_dir:
    description: Where layers, wheels and models are kept between builds.
    type: path
    default: /var/cache/vllmd
  build_dir:
    description: Where images are put together.
    type: path
    default: /var/lib/vllmd/build
  log_dir:
    description: Where the logs of builds are. One of an image that is not in the store goes after 30 days.
    type: path
    default: /var/log/vllmd
  keep:
    description: How many of the newest stay, of each image's versions, of each model and of the wheels.
    type: int
    default: 2
  pinned:
    description: Versions that stay in any case, each as C(<image name>/<version>).
    type: list
    elements: str
    default: []
  keep_paths:
    description: Directories of the cache that stay in any case.
    type: list
    elements: path
    default: []
  references:
    description: Files, with wildcards, that name images which have to stay.
    type: list
    elements: str
    default: [/etc/vllmd/hypervisor/*.env, /var/lib/vllmd/runtimes/*/served.json]
seealso:
  - module: vllmd.platform.image_build
  - module: vllmd.platform.image_remove
"""

EXAMPLES = r"""
- name: Make room, and keep what runs, the last version and one that is being looked into
  vllmd.platform.image_gc:
    keep: 1
    pinned: [vllmd-cpu/3f2a91c04b7d]
"""

RETURN = r"""
removed:
  description: What was, or in check mode would be, removed.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(image), V(layer), V(wheels), V(model), V(build), V(leftover) or V(log).
      type: str
    path:
      description: What it is.
      type: str
    size_bytes:
      description: What removing it frees.
      type: int
kept:
  description: What stays, with the reason in V(kept).
  returned: success
  type: list
  elements: dict
freed_bytes:
  description: The sum of what was, or in check mode would be, removed.
  returned: success
  type: int
summary:
  description: The same for a person, one line for each thing that goes, and one for each that stays.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import image_gc, image_references
from ansible_collections.vllmd.platform.plugins.module_utils.build_cleanup import CleanupError
from ansible_collections.vllmd.platform.plugins.module_utils.image_manifest import ImageError
from ansible_collections.vllmd.platform.plugins.module_utils.quantities import human

ARGUMENTS: dict[str, Any] = {
    "store_dir": {"type": "path", "default": "/var/lib/vllmd/images"},
    "cache_dir": {"type": "path", "default": "/var/cache/vllmd"},
    "build_dir": {"type": "path", "default": "/var/lib/vllmd/build"},
    "log_dir": {"type": "path", "default": "/var/log/vllmd"},
    "keep": {"type": "int", "default": 2},
    "pinned": {"type": "list", "elements": "str", "default": []},
    "keep_paths": {"type": "list", "elements": "path", "default": []},
    "references": {"type": "list", "elements": "str", "default": list(image_references.REFERENCE_FILES)},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Look, and outside of check mode remove. Returns the task's result."""
    params = module.params
    if params["keep"] < 1:
        raise ImageError(
            f"keep is {params['keep']}; at least 1 has to stay, the latest (module image_remove removes all)"
        )
    scope = image_gc.Scope(
        store=Path(params["store_dir"]),
        cache=Path(params["cache_dir"]),
        build=Path(params["build_dir"]),
        logs=Path(params["log_dir"]),
        keep=params["keep"],
        pins=tuple(params["pinned"]),
        keep_paths=tuple(Path(path) for path in params["keep_paths"]),
        references=tuple(params["references"]),
    )
    items = image_gc.survey(scope)
    removed = [item for item in items if not item.kept]
    stayed: list[image_gc.Item] = []
    if not module.check_mode:
        removed, stayed = image_gc.collect(scope, items)
    kept = [*(item for item in items if item.kept), *stayed]
    verb = "would remove" if module.check_mode else "removed"
    freed = sum(item.size for item in removed)
    return {
        "changed": bool(removed),
        "removed": [item.as_dict() for item in removed],
        "kept": [item.as_dict() for item in kept],
        "freed_bytes": freed,
        "summary": [
            *(f"{verb} {item.kind} {item.path} ({human(item.size)})" for item in removed),
            *(f"kept {item.kind} {item.path} ({human(item.size)}): {item.kept}" for item in kept),
            f"{verb} {len(removed)} of {len(items)}, {human(freed)}",
        ],
        "diff": {
            "before": {"paths": sorted(str(item.path) for item in items)},
            "after": {"paths": sorted(str(item.path) for item in kept)},
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    failure = ""
    result: dict[str, Any] = {}
    try:
        result = work(module)
    except (ImageError, CleanupError) as error:
        failure = str(error)
    except OSError as error:
        failure = (
            f"cannot collect garbage: {error.filename or ''} {error.strerror or error}; correct that and run it again"
        )
    if failure:
        module.fail_json(msg=failure)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
