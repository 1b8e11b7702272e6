#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_package
short_description: Keep a directory of Python modules exactly as given
version_added: 0.1.0
description:
  - Writes the modules that differ, removes Python modules that are not given and leaves everything else in the
    directory alone. All in one round trip, however many modules there are.
  - Each file is replaced as a whole, so that a program that starts meanwhile reads the old or the new one.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
  diff_mode:
    description: Names the files; their text is the collection's.
    support: partial
options:
  path:
    description: The package's directory. It is made, with its missing parents.
    type: path
    required: true
  modules:
    description: The text of each module by its file name, such as C(cli.py).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Install a package that a role carries
  vllmd.platform.python_package:
    path: /usr/local/lib/example/example
    modules:
      __init__.py: ""
      cli.py: "{{ lookup('ansible.builtin.file', 'example/cli.py', rstrip=false) }}"
"""

RETURN = r"""
written:
  description: The names of the files that were written, sorted.
  returned: success
  type: list
  elements: str
removed:
  description: The names of the files that were removed, sorted.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic

_MODE = 0o644


def is_current(path: Path, text: bytes) -> bool:
    """Return whether the file has exactly this text and mode."""
    try:
        return path.read_bytes() == text and path.stat().st_mode & 0o7777 == _MODE and not path.is_symlink()
    except FileNotFoundError:
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}, "modules": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    directory = Path(module.params["path"])
    wanted = {name: str(text).encode() for name, text in module.params["modules"].items()}
    for name in wanted:
        if Path(name).name != name or not name.endswith(".py"):
            module.fail_json(msg=f"modules: {name!r} is no file name of a Python module, such as cli.py")
    try:
        present = {path.name for path in directory.glob("*.py")}
        written = sorted(name for name, text in wanted.items() if not is_current(directory / name, text))
        removed = sorted(present - wanted.keys())
        if not module.check_mode:
            atomic.make_directory(directory)
            for name in written:
                atomic.write_file(directory / name, wanted[name], _MODE)
            for name in removed:
                (directory / name).unlink()
    except OSError as error:
        module.fail_json(msg=f"cannot keep the package in {directory}: {error.filename}: {error.strerror}")
    module.exit_json(
        changed=bool(written or removed),
        written=written,
        removed=removed,
        diff={
            "before_header": str(directory),
            "after_header": str(directory),
            "before": "".join(f"{name}\n" for name in sorted({*removed, *(set(written) & present)})),
            "after": "".join(f"{name} (new text)\n" for name in written),
        },
    )


if __name__ == "__main__":
    main()
