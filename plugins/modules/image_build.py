#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_build
short_description: Build a guest image and publish it to the image store
version_added: 0.1.0
description:
  - Runs diskimage-builder's disk-image-create and publishes system image, kernel, initrd and manifest as one new
    version in the image store, by rename, never half there. The version is derived from the inputs.
  - With O(signing_key) the manifest's signature is published with it, and an unchanged image that lacks one is signed
    without being built anew.
  - Unchanged inputs build nothing. Inputs are the elements' files, models, wheels, settings and tool versions; mirrors
    are none, because what they serve is the same. A file that did not change since it was last read is not read again.
  - The build runs in mount and PID namespaces of its own. When it fails or is interrupted, nothing of it stays but its
    log, and the store is as it was. What a killed process could not clean is cleaned at the next start.
  - Must run as root, with a Python that has diskimage-builder installed.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Tells whether an image would be built, and because of which inputs.
    support: full
  diff_mode:
    description: Shows the version and the inputs that differ.
    support: full
options:
  name:
    description: The image's name in the store.
    type: str
    required: true
  profile:
    description: What the guest computes on.
    type: str
    choices: [cpu, cuda]
    default: cpu
  release:
    description: The Debian release of the guest.
    type: str
    default: bookworm
  architecture:
    description: The Debian architecture of the guest. The default is the builder's.
    type: str
  elements:
    description: The diskimage-builder elements of the image.
    type: list
    elements: str
    required: true
  elements_path:
    description: Directories with elements. They win over diskimage-builder's own of the same name.
    type: list
    elements: path
    required: true
  environment:
    description: Further variables for the elements. Their names begin with C(DIB_).
    type: dict
    default: {}
  models:
    description: Model directories that are copied into the image.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The model's directory name below C(/var/lib/vllmd/models) in the guest, in lower case.
        type: str
        required: true
      path:
        description: The model's directory on the builder.
        type: path
        required: true
  wheelhouse:
    description: Directory with the Python wheels of the guest.
    type: path
  serial:
    description: Any text. Changing it builds anew from the same inputs, for example to take in Debian's updates.
    type: str
    default: ''
  mirror:
    description: Debian mirror to build from. The default is the one in the builder's own apt configuration.
    type: str
  security_mirror:
    description: Mirror of Debian's security archive. The default is the one in the builder's own apt configuration.
    type: str
  cache_dir:
    description: Where downloads and file digests are kept between builds.
    type: path
    default: /var/cache/vllmd
  store_dir:
    description: The image store.
    type: path
    default: /var/lib/vllmd/images
  build_dir:
    description:
      - Where the image is put together, in a directory of its own that is removed at the end.
      - Must not be on a filesystem in memory unless that is large enough.
    type: path
    default: /var/lib/vllmd/build
  log_path:
    description: The build's log, overwritten by each build. The default is C(/var/log/vllmd/image-<name>.log).
    type: path
  min_free_mib:
    description: Free space in MiB that O(build_dir) and O(store_dir) must have before a build starts.
    type: int
    default: 8192
  keep:
    description:
      - How many versions stay in the store, counting the new one. Versions that a process holds open, a loop device is
        attached to, or a runtime of this host names stay too.
    type: int
    default: 2
  lock_timeout:
    description: Seconds to wait while another process builds the same image.
    type: int
    default: 0
  pinned:
    description: Versions that stay in any case, each as C(<image name>/<version>).
    type: list
    elements: str
    default: []
  layers_max_mib:
    description:
      - How many MiB the cache of layers in O(cache_dir) may take; the least recently used layers go first.
      - A build starts from the topmost layer whose inputs are its own, so that a change rebuilds only what is above.
      - A layer holds the Debian packages of the day it was made, until O(serial) changes.
      - V(0) keeps no layers and uses none.
    type: int
    default: 16384
  lock_file:
    description:
      - The image's lock file on the builder. The build makes the image that it describes, from exactly the packages,
        wheels and models that it names, or refuses and says what differs.
      - Packages come from the downloads in O(cache_dir), or from the mirrors while they serve them.
    type: path
  lock_update:
    description: Build from what the mirrors serve now, without layers, and write O(lock_file) from what came out.
    type: bool
    default: false
  program:
    description: The disk-image-create to run. The default is the one of the running Python's environment.
    type: path
  signing_key:
    description:
      - Private Ed25519 key in PEM form on the builder, not encrypted, with permissions 0600 or fewer. It is no input.
      - An image that is signed by another key is signed anew. A signature by this key that does not fit its manifest
        makes the image a damaged one, which is built anew.
      - Without it nothing is signed, and a signature that is there stays.
    type: path
requirements:
  - cryptography (with O(signing_key))
  - diskimage-builder
  - util-linux
seealso:
  - module: vllmd.platform.image_verify
  - module: vllmd.platform.image_remove
"""

EXAMPLES = r"""
- name: Build the CPU image
  vllmd.platform.image_build:
    name: vllmd-cpu
    elements: [vllmd-debian, vllmd-containerd, vllmd-vllm, vllmd-model, vllmd-runtime]
    elements_path: [/usr/share/vllmd/image-elements]
    wheelhouse: /var/cache/vllmd/wheels/cpu
    models:
      - name: smollm2-135m-instruct
        path: /var/cache/vllmd/models/smollm2-135m-instruct
  register: image
"""

RETURN = r"""
version:
  description: The version that the inputs give.
  returned: success
  type: str
  sample: 3f2a91c04b7d
path:
  description: The version's directory. In check mode it may not exist yet.
  returned: success
  type: str
action:
  description:
    - What had to be done when the task began, V(none), V(sign), V(link) (the version is in the store and becomes the
      latest, and is signed if it has to be) or V(build).
  returned: success
  type: str
  sample: build
reason:
  description: Why an image was or would be built, or why not.
  returned: success
  type: str
  sample: "inputs changed: element vllmd-runtime"
changed_inputs:
  description: The inputs that differ from the latest version.
  returned: success
  type: list
  elements: str
signed_by:
  description: The id of O(signing_key), V(sha256:) and the SHA-256 of its public half as DER.
  returned: when O(signing_key) is given
  type: str
log_path:
  description: The build's log.
  returned: always
  type: str
duration_seconds:
  description: How long the module took.
  returned: success
  type: float
lock_changes:
  description: What changed in O(lock_file), a line for each package, wheel, model, input and output.
  returned: with O(lock_update), when the image was built
  type: list
  elements: str
  sample: ["package openssl 3.0.16-1~deb12u1 -> 3.0.17-1~deb12u2"]
outlook:
  description: What would be done, a line for each layer, and for time, size, place and what would be removed.
  returned: in check mode, when an image would be built
  type: list
  elements: str
cleaned:
  description: What a killed build had left and was cleaned; in check mode, what lies around.
  returned: success
  type: list
  elements: str
removed:
  description: Versions that were removed because of O(keep).
  returned: success
  type: list
  elements: str
"""

import os
import re
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import (
    apt_sources,
    image_builder,
    image_lock,
    image_manifest,
    image_outlook,
    image_plan,
    image_references,
    signals,
    signing_keys,
)
from ansible_collections.vllmd.platform.plugins.module_utils.build_cleanup import CleanupError
from ansible_collections.vllmd.platform.plugins.module_utils.dib import BuildError
from ansible_collections.vllmd.platform.plugins.module_utils.digests import DigestCache
from ansible_collections.vllmd.platform.plugins.module_utils.image_inputs import InputError
from ansible_collections.vllmd.platform.plugins.module_utils.locks import LockedError

ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "profile": {"type": "str", "choices": ["cpu", "cuda"], "default": "cpu"},
    "release": {"type": "str", "default": "bookworm"},
    "architecture": {"type": "str"},
    "elements": {"type": "list", "elements": "str", "required": True},
    "elements_path": {"type": "list", "elements": "path", "required": True},
    "environment": {"type": "dict", "default": {}},
    "models": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "path": {"type": "path", "required": True}},
    },
    "wheelhouse": {"type": "path"},
    "serial": {"type": "str", "default": ""},
    "mirror": {"type": "str"},
    "security_mirror": {"type": "str"},
    "cache_dir": {"type": "path", "default": "/var/cache/vllmd"},
    "store_dir": {"type": "path", "default": "/var/lib/vllmd/images"},
    "build_dir": {"type": "path", "default": "/var/lib/vllmd/build"},
    "log_path": {"type": "path"},
    "min_free_mib": {"type": "int", "default": 8192},
    "keep": {"type": "int", "default": 2},
    "lock_timeout": {"type": "int", "default": 0},
    "pinned": {"type": "list", "elements": "str", "default": []},
    "layers_max_mib": {"type": "int", "default": 16384},
    "lock_file": {"type": "path"},
    "lock_update": {"type": "bool", "default": False},
    "program": {"type": "path"},
    "signing_key": {"type": "path", "no_log": False},
}
_ELEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def request_of(params: dict[str, Any]) -> image_plan.Request:
    """Return the checked request. Raises ImageError for a parameter that cannot be."""
    image_manifest.check_name(params["name"])
    for element in params["elements"]:
        if not _ELEMENT.fullmatch(element):
            raise image_manifest.ImageError(
                f"element name {element!r} is not possible; allowed: letters, digits, . _ -"
            )
    for name in params["environment"]:
        if not re.fullmatch(r"DIB_[A-Z0-9_]+", name):
            raise image_manifest.ImageError(f"environment variable {name!r} is not allowed; names begin with DIB_")
    models = {each["name"]: Path(each["path"]) for each in params["models"]}
    for name, path in models.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise image_manifest.ImageError(f"model name {name!r} is not possible; allowed: a-z, 0-9 and . _ -")
        if re.search(r"\s", str(path)):
            raise image_manifest.ImageError(f"model {name}: {str(path)!r} has a space, which the elements cannot read")
    if len(models) < len(params["models"]):
        raise image_manifest.ImageError("two models have the same name; give each its own")
    image_references.parse_pins(params["pinned"])
    lock_path = Path(params["lock_file"]) if params["lock_file"] else None
    if params["lock_update"] and lock_path is None:
        raise image_manifest.ImageError("lock_update is true, but lock_file names no file to update; name one")
    absent = lock_path is None or (params["lock_update"] and not lock_path.exists())
    found = apt_sources.mirrors(apt_sources.read_sources(), params["release"])
    return image_plan.Request(
        name=params["name"],
        profile=params["profile"],
        release=params["release"],
        architecture=params["architecture"] or image_plan.host_architecture(),
        elements=params["elements"],
        elements_paths=[Path(path) for path in params["elements_path"]],
        environment={name: str(value) for name, value in params["environment"].items()},
        models=models,
        wheelhouse=Path(params["wheelhouse"]) if params["wheelhouse"] else None,
        serial=params["serial"],
        mirror=params["mirror"] or found.debian,
        security_mirror=params["security_mirror"] or found.security,
        cache_dir=Path(params["cache_dir"]),
        store_dir=Path(params["store_dir"]),
        build_dir=Path(params["build_dir"]),
        log_path=Path(params["log_path"] or f"/var/log/vllmd/image-{params['name']}.log"),
        min_free_mib=params["min_free_mib"],
        keep=params["keep"],
        lock_timeout=params["lock_timeout"],
        layers_max_mib=params["layers_max_mib"],
        lock_path=lock_path,
        lock=None if absent or lock_path is None else image_lock.load(lock_path),
        lock_update=params["lock_update"],
        pins=tuple(params["pinned"]),
        program=Path(params["program"]) if params["program"] else image_plan.default_program(),
        signer=signing_keys.load_signing_key(Path(params["signing_key"])) if params["signing_key"] else None,
    )


def result_of(request: image_plan.Request, todo: image_plan.Plan) -> dict[str, Any]:
    """Return what is known before anything is done."""
    labels = {label.removesuffix(" (new)").removesuffix(" (gone)") for label in todo.changed_inputs}
    old = todo.before or {"version": None, "inputs": {}}
    diff: dict[str, dict[str, Any]] = {
        "before": {"version": old["version"], **{k: v for k, v in old["inputs"].items() if k in labels}},
        "after": {"version": todo.version, **{k: v for k, v in todo.inputs.items() if k in labels}},
    }
    signed: dict[str, Any] = {}
    if request.signer:
        signed = {"signed_by": request.signer.public.key_id}
        if todo.action == "build" or todo.unsigned:
            diff["before"]["signature"] = todo.unsigned or None
            diff["after"]["signature"] = f"the image is signed by key {request.signer.public.key_id}"
    return {
        "version": todo.version,
        "path": str(request.store_dir / request.name / todo.version),
        "action": todo.action,
        "reason": todo.reason,
        "changed_inputs": todo.changed_inputs,
        "log_path": str(request.log_path),
        "diff": diff,
        **signed,
    }


def work(module: AnsibleModule, request: image_plan.Request) -> dict[str, Any]:
    """Build if necessary. Returns the task's result."""
    started = time.monotonic()
    cache = DigestCache(request.cache_dir / "digests.json")
    inputs = image_plan.collect_inputs(request, cache, image_plan.tool_versions(), missing_ok=module.check_mode)
    todo = image_plan.plan(request, inputs)
    result = result_of(request, todo)
    if module.check_mode:
        result.update(changed=todo.action != "none", cleaned=image_builder.leftovers(request), removed=[])
        if todo.action == "build":
            result["outlook"] = image_outlook.of_build(request, todo, cache.digest)
        if result["changed"]:
            result["msg"] = f"would {todo.action} image {request.name} because {todo.reason}"
    else:
        if todo.action == "build" and os.geteuid() != 0:
            raise image_manifest.ImageError("an image is built as root; run the task with become: true")
        result.update(image_builder.apply(request, todo, cache))
        result["path"] = str(request.store_dir / request.name / result["version"])
        if request.lock_update and request.lock_path:
            result["lock_changes"] = image_lock.differences(request.lock, image_lock.load(request.lock_path))
        save(module, cache)
    result["duration_seconds"] = round(time.monotonic() - started, 3)
    return result


def save(module: AnsibleModule, cache: DigestCache) -> None:
    """Keep the file digests for the next run; without them that one only reads more."""
    try:
        cache.save()
    except OSError as error:
        module.warn(f"file digests were not kept for the next run: {error.filename} {error.strerror}")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)

    log_path = module.params["log_path"] or f"/var/log/vllmd/image-{module.params['name']}.log"
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = work(module, request_of(module.params))
    except (image_manifest.ImageError, InputError, BuildError, CleanupError, LockedError) as error:
        failure = str(error)
    except signals.Interrupted as signal:
        failure = f"the build of image {module.params['name']} was interrupted by {signal}; nothing was published"
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        failure = f"the build of image {module.params['name']} failed:{where} {error.strerror or error}"
    if failure:
        module.fail_json(msg=failure, log_path=log_path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
