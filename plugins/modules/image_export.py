#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_export
short_description: Give a published image other forms - qcow2, squashfs, OCI
version_added: 0.1.0
description:
  - Makes further forms of a published image's root file system, beside the image. C(system.qcow2) is compressed, for
    clouds; C(system.squashfs) is for bare metal; C(oci) is an OCI image layout of one layer that container tools read.
  - The system image is checked against its manifest before. Each form appears by one rename and is listed with the
    digests of its files in C(exports.json). One that is as it should be is not made again.
  - The same image gives the same bytes with the same versions of the tools.
  - Must run as root, since the system image is mounted, read-only, in a namespace of its own. However the task ends,
    nothing stays mounted.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Tells what would be made, and why.
    support: full
  diff_mode:
    description: Shows the exports before and after.
    support: full
options:
  name:
    description: The image's name in the store.
    type: str
    required: true
  version:
    description: The version, or V(latest).
    type: str
    default: latest
  formats:
    description: What to make.
    type: list
    elements: str
    choices: [qcow2, squashfs, oci]
    required: true
  state:
    description: V(absent) removes these exports. Others of the same version stay in both cases.
    type: str
    choices: [present, absent]
    default: present
  store_dir:
    description: The image store.
    type: path
    default: /var/lib/vllmd/images
  cache_dir:
    description: Where digests of files that did not change are kept.
    type: path
    default: /var/cache/vllmd
  signing_key:
    description:
      - Private Ed25519 key in PEM form that signs C(exports.json); C(exports.sig) has the form of C(manifest.sig).
      - Without it nothing is signed, and a signature that no longer fits is removed.
    type: path
  lock_timeout:
    description: Seconds to wait while another process builds or exports the same image.
    type: int
    default: 0
requirements:
  - qemu-utils (for V(qcow2))
  - squashfs-tools (for V(squashfs))
  - util-linux
seealso:
  - module: vllmd.platform.image_build
"""

EXAMPLES = r"""
- name: The same build as a container image and for bare metal
  vllmd.platform.image_export:
    name: vllmd-cpu
    formats: [oci, squashfs]
"""

RETURN = r"""
version:
  description: The version that was meant.
  returned: success
  type: str
path:
  description: The version's directory.
  returned: success
  type: str
made:
  description: What was, or in check mode would be, made or removed, with the reason.
  returned: success
  type: dict
  sample: {oci: was never made}
seconds:
  description: How long each took.
  returned: success
  type: dict
exports:
  description: What there is afterwards, with the digests of the files, as in C(exports.json).
  returned: success
  type: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import (
    image_export,
    image_manifest,
    images,
    signals,
    signing_keys,
)
from ansible_collections.vllmd.platform.plugins.module_utils.digests import DigestCache
from ansible_collections.vllmd.platform.plugins.module_utils.locks import LockedError

ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "default": "latest"},
    "formats": {"type": "list", "elements": "str", "choices": ["qcow2", "squashfs", "oci"], "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "store_dir": {"type": "path", "default": "/var/lib/vllmd/images"},
    "cache_dir": {"type": "path", "default": "/var/cache/vllmd"},
    "signing_key": {"type": "path", "no_log": False},
    "lock_timeout": {"type": "int", "default": 0},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Export or remove. Returns the task's result."""
    params = module.params
    store, name = Path(params["store_dir"]), params["name"]
    directory = images.image_path(store, name, params["version"])
    formats = list(dict.fromkeys(params["formats"]))
    before = image_export.load(directory)["exports"]
    result: dict[str, Any] = {"version": directory.name, "path": str(directory), "seconds": {}}
    if params["state"] == "absent":
        made = {
            each: "is not wanted"
            for each in formats
            if each in before or (directory / image_export.NAMES[each]).exists()
        }
        if made and not module.check_mode:
            image_export.remove(store, name, directory.name, formats, params["lock_timeout"])
        after = [each for each in before if each not in made]
    else:
        cache = DigestCache(Path(params["cache_dir"]) / "digests.json")
        signer = signing_keys.load_signing_key(Path(params["signing_key"])) if params["signing_key"] else None
        manifest = image_manifest.load(directory)
        made = image_export.outdated(directory, manifest, formats, cache.digest)
        if not made and image_export.is_unsigned(directory, signer):
            made = {"signature": "is not by this key"}
        if made and not module.check_mode:
            if os.geteuid() != 0:
                raise image_manifest.ImageError("an image is exported as root; run the task with become: true")
            result["seconds"] = image_export.export(
                store,
                name,
                directory.name,
                formats,
                file_digest=cache.digest,
                signer=signer,
                lock_timeout=params["lock_timeout"],
            )
        try:
            cache.save()
        except OSError as error:
            module.warn(f"file digests were not kept for the next run: {error.filename} {error.strerror}")
        after = sorted({*before, *(each for each in made if each in image_export.NAMES)})
    return {
        **result,
        "changed": bool(made),
        "made": made,
        "exports": image_export.load(directory)["exports"],
        "diff": {
            "before": {"exports": sorted(before)},
            "after": {"exports": after, **({"made": made} if made else {})},
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    failure = ""
    result: dict[str, Any] = {}
    try:
        result = work(module)
    except (image_manifest.ImageError, LockedError) as error:
        failure = str(error)
    except signals.Interrupted as signal:
        failure = (
            f"the export of image {module.params['name']} was interrupted by {signal}; what was there is there still"
        )
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        failure = f"the export of image {module.params['name']} failed:{where} {error.strerror or error}"
    if failure:
        module.fail_json(msg=failure)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
