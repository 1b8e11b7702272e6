# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_manifest
short_description: Read and validate Runtime manifests
version_added: 0.1.0
description:
  - Reads manifests of C(apiVersion) C(vllmd.com/v1alpha1), C(kind) C(Runtime) on the controller, validates them against
    the collection's JSON Schema and returns them as plain data with every default applied.
  - A refused manifest fails the task with one line per wrong field, C(FILE:LINE:COLUMN), that names the field, what
    was found and what is allowed.
  - Environment variables of the vLLM process are C(spec.engine_environment), a mapping beside C(spec.engine), because
    every key of C(spec.engine) is a vLLM option.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: The action runs on the controller.
    support: full
  check_mode:
    description: Nothing is ever changed.
    support: full
  diff_mode:
    description: Nothing is ever changed.
    support: none
options:
  path:
    description:
      - Manifest files on the controller. A directory stands for its C(*.yaml) and C(*.yml) files.
      - A file may hold several documents, each one Runtime. Names are unique over all files.
      - A file that is named twice is read once.
    type: list
    elements: str
    required: true
  ssh_authorized_keys:
    description:
      - OpenSSH public keys that may log in to the guest as root. Without any the guest starts no SSH server.
      - Only used for RV(runtimes[].guest).
    type: list
    elements: str
    default: []
  target:
    description:
      - Only runtimes whose C(spec.placement.target) is this are returned. All of them are read and validated.
    type: str
    choices: [hypervisor, kubernetes]
    default: hypervisor
requirements:
  - jsonschema (on the controller)
  - PyYAML (on the controller)
seealso:
  - module: vllmd.platform.config_image
"""

EXAMPLES = r"""
- name: Read the runtimes of this inventory
  vllmd.platform.runtime_manifest:
    path: "{{ inventory_dir }}/runtimes"
  register: manifests

- name: Name them
  ansible.builtin.debug:
    msg: "{{ manifests.runtimes | map(attribute='metadata.name') | join(', ') }}"
"""

RETURN = r"""
runtimes:
  description: One entry per Runtime, in the order of the files and of the documents in them.
  returned: success
  type: list
  elements: dict
  contains:
    metadata:
      description: C(name) and C(labels).
      type: dict
    spec:
      description:
        - The manifest's C(spec) with defaults applied and C(engine) in kebab-case.
        - C(resources) also holds C(cpu_millis), C(memory_bytes), C(memory_mib), C(accelerator_memory_bytes) and
          C(accelerator_memory_mib), rounded up.
      type: dict
    guest:
      description:
        - The content of C(vllmd/runtime.json) on the config image, without any secret of a cluster.
        - Only with O(target=hypervisor).
      type: dict
    launcher:
      description: Launcher settings, C(cpu_count), C(memory_config) and C(network). Only with O(target=hypervisor).
      type: dict
      sample: {cpu_count: 4, memory_config: "size=16384M,shared=on", network: "mode=user,forward=127.0.0.1:8000:8000"}
    source:
      description: The C(path), and C(line) and C(column) of the name, that the runtime was read from.
      type: dict
others:
  description: Names of the runtimes that are for the other target.
  returned: success
  type: list
  elements: str
errors:
  description: One line per wrong field.
  returned: failure
  type: list
  elements: str
  sample:
    - "runtime.yaml:11:5: field spec.resources.cpuu: unknown field; allowed: cpu, memory (did you mean cpu?)"
"""
