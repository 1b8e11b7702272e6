#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_files
short_description: Write the configuration of a host's services, and let them run with it
version_added: 0.1.0
description:
  - Makes directories, files and links, all in one step, and then enables, starts and restarts the units that read them.
  - Nothing is written unless every file is accepted by its own program. A file is replaced as a whole.
  - That a unit has to restart is remembered on the host until it has, so a run that is killed before that is made good
    by the next one, which a handler is not.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: >-
      Says what would be written, started and restarted. Programs and units that are not there yet are passed over.
    support: full
  diff_mode:
    description: Shows each file before and after, and the rest by name.
    support: full
options:
  directories:
    description: Directories, made with mode 0755 where they are missing.
    type: list
    elements: path
    default: []
  files:
    description: The files, for root.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file. Missing directories above it are made.
        type: path
        required: true
      content:
        description: What is in it.
        type: str
        required: true
      mode:
        description: Its permissions, in octal digits.
        type: str
        default: "0644"
      validate:
        description: A program that accepts the content or does not, with V(%s) for a file that has it.
        type: list
        elements: str
        default: []
      previous:
        description: >-
          Where the file that was there before the first write is kept, with mode 0600; empty when there was none.
        type: path
  links:
    description: >-
      Directories in which links are made, and the directory that these lead to. Every entry of that gets one, except
      where there is something of its name.
    type: dict
    default: {}
  units:
    description: Units of systemd, enabled in any case.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The unit, with its suffix.
        type: str
        required: true
      files:
        description: Those of O(files) after whose change it is restarted, if it runs.
        type: list
        elements: path
        default: []
      started:
        description: Whether it is started, too.
        type: bool
        default: false
      reload:
        description: Whether it reads its files again without a restart.
        type: bool
        default: false
      watched:
        description: >-
          Files that others write, and directories with all below them. It is restarted if it runs since before one of
          them was written.
        type: list
        elements: path
        default: []
"""

EXAMPLES = r"""
- name: Configure containerd
  vllmd.platform.host_files:
    directories: [/etc/cdi]
    files:
      - path: /etc/containerd/config.toml
        content: "{{ lookup('ansible.builtin.template', 'containerd.toml.j2') }}"
        validate: [containerd, --config, "%s", config, dump]
        previous: /var/lib/example/previous/config.toml
    links:
      /opt/cni/bin: /usr/lib/cni
    units:
      - name: containerd.service
        files: [/etc/containerd/config.toml]
        started: true
"""

RETURN = r"""
written:
  description: Files that were written or would be.
  returned: success
  type: list
  elements: str
done:
  description: What else was done or would be, a line for each directory, link and unit.
  returned: success
  type: list
  elements: str
"""

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import host_files


def read(given: dict[str, Any]) -> list[host_files.File]:
    """Return the files that are asked for. Raises FilesError."""
    found = []
    for each in given["files"]:
        if not each["mode"].isdigit() or set(each["mode"]) - set("01234567"):
            raise host_files.FilesError(f"{each['path']}: mode {each['mode']} is not octal; write it like '0644'")
        found.append(
            host_files.File(
                path=Path(each["path"]),
                content=each["content"].encode(),
                mode=int(each["mode"], 8),
                validate=tuple(each["validate"]),
                previous=Path(each["previous"]) if each["previous"] else None,
            )
        )
    return found


def bring(given: dict[str, Any], *, is_dry: bool) -> dict[str, Any]:
    """Bring the host there, or say what is missing; return the module's result. Raises FilesError."""
    files = read(given)
    units = [
        host_files.Unit(
            name=each["name"],
            files=frozenset(Path(path) for path in each["files"]),
            started=each["started"],
            reload=each["reload"],
            watched=tuple(Path(path) for path in each["watched"]),
        )
        for each in given["units"]
    ]
    links = {Path(directory): Path(source) for directory, source in given["links"].items()}
    changes, missing, linked = host_files.compare([Path(path) for path in given["directories"]], files, links)
    changed = [file for file, _before in changes.files]
    with tempfile.TemporaryDirectory(prefix="vllmd-") as scratch:
        host_files.validate(changed, Path(scratch), is_dry=is_dry)
    paths = [file.path for file in changed]
    if not is_dry:
        host_files.note(units, paths)
        host_files.write(missing, changed, linked)
    done = changes.lines + host_files.bring(units, paths, is_dry=is_dry)
    diff = changes.shown()
    if done:
        diff.append({"before": "", "after": "".join(f"{line}\n" for line in done)})
    return {"changed": bool(paths or done), "written": [str(path) for path in paths], "done": done, "diff": diff}


def main() -> None:
    """Run the module."""
    file = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "list", "elements": "str", "default": []},
        "previous": {"type": "path"},
    }
    unit = {
        "name": {"type": "str", "required": True},
        "files": {"type": "list", "elements": "path", "default": []},
        "started": {"type": "bool", "default": False},
        "reload": {"type": "bool", "default": False},
        "watched": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "path", "default": []},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "links": {"type": "dict", "default": {}},
            "units": {"type": "list", "elements": "dict", "default": [], "options": unit},
        },
        supports_check_mode=True,
    )
    try:
        result = bring(module.params, is_dry=module.check_mode)
    except host_files.FilesError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
