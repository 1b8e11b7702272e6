#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_verify
short_description: Check a published image against its manifest
version_added: 0.1.0
description:
  - Finds an image in the image store, checks size and SHA-256 digest of each of its files against its manifest and
    returns the manifest.
  - A file that differs fails the task with one line that names the file, what was found and what was expected. So does
    a manifest that describes another image or version than its directory is for.
  - With O(trusted_keys) the manifest must besides be signed by one of them.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Nothing is ever changed.
    support: full
  diff_mode:
    description: Nothing is ever changed.
    support: none
options:
  name:
    description: The image's name in the store.
    type: str
    required: true
  version:
    description: The version, or V(latest).
    type: str
    default: latest
  store_dir:
    description: The image store.
    type: path
    default: /var/lib/vllmd/images
  cache_dir:
    description:
      - When given, a file that is unchanged (size, times, inode) since its digest was last computed is not read again.
      - Without it every byte is read.
    type: path
  trusted_keys:
    description:
      - Public keys, Ed25519 or P-256, that images are accepted from. Each is PEM text, or a file on the host with it.
      - When given, a signature that is missing, damaged, by another key or over another manifest fails the task with
        one line. An empty list fails it, too.
      - An entry may be a dictionary instead, C(key) with the above and C(not_before), C(not_after), a day or a moment
        in UTC. A signature by that key is refused at any other time.
      - Without it signatures are not looked at.
    type: list
    elements: raw
requirements:
  - cryptography (with O(trusted_keys))
seealso:
  - module: vllmd.platform.image_build
"""

EXAMPLES = r"""
- name: Check the image before it is used
  vllmd.platform.image_verify:
    name: vllmd-cpu
  register: image

- name: Check besides that the operator signed it
  vllmd.platform.image_verify:
    name: vllmd-cpu
    trusted_keys: ["{{ lookup('ansible.builtin.file', 'images.pub') }}"]

- name: Tell its kernel
  ansible.builtin.debug:
    msg: "{{ image.path }}/kernel is {{ image.manifest.kernel_release }}"
"""

RETURN = r"""
path:
  description: The version's directory.
  returned: success
  type: str
version:
  description: The version, V(latest) resolved.
  returned: success
  type: str
signed_by:
  description: The id of the trusted key that signed it, V(sha256:) and the SHA-256 of the public key as DER.
  returned: when O(trusted_keys) is given
  type: str
manifest:
  description: The image's manifest.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import (
    image_manifest,
    images,
    signatures,
    signing_keys,
)
from ansible_collections.vllmd.platform.plugins.module_utils.digests import DigestCache, digest_file


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "default": "latest"},
            "store_dir": {"type": "path", "default": "/var/lib/vllmd/images"},
            "cache_dir": {"type": "path"},
            "trusted_keys": {"type": "list", "elements": "raw", "no_log": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    cache = DigestCache(Path(params["cache_dir"]) / "digests.json") if params["cache_dir"] else None
    signed: dict[str, str] = {}
    try:
        trusted = None if params["trusted_keys"] is None else signing_keys.load_trusted_keys(params["trusted_keys"])
        path = images.image_path(Path(params["store_dir"]), params["name"], params["version"])
        # Read once: the bytes whose signature is checked are the ones that are believed.
        content = image_manifest.read(path)
        if trusted is not None:
            signed = {"signed_by": signatures.check(path, content, trusted)}
        manifest = image_manifest.parse(path, content)
        image_manifest.check_digests(path, manifest, cache.digest if cache else digest_file)
        if cache and not module.check_mode:
            cache.save()
    except image_manifest.ImageError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot verify image {params['name']}: {error.filename or ''} {error.strerror or error}")
    module.exit_json(changed=False, path=str(path), version=manifest["version"], manifest=manifest, **signed)


if __name__ == "__main__":
    main()
