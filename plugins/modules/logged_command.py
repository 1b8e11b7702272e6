#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: logged_command
short_description: Run a long command that makes one thing, with its progress in a log
version_added: 0.1.0
description:
  - Runs a command whose product is one path, once. Its standard error goes to a log while it runs, so that a person can
    see that it is alive; its standard output is returned.
  - A command that fails fails the task with one line, the last one that the command wrote, and the log's path.
  - The command ends with the task, however that ends.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Tells whether the command would run.
    support: full
  diff_mode:
    description: The product is a whole directory.
    support: none
options:
  argv:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  with_python:
    description: Run the command with the Python that runs this module, and with that Python's environment.
    type: bool
    default: false
  creates:
    description: The path that the command makes, complete or not at all. When it exists, nothing runs.
    type: path
    required: true
  log_path:
    description: The log, overwritten each time the command runs.
    type: path
    required: true
seealso:
  - module: ansible.builtin.command
"""

EXAMPLES = r"""
- name: Download the wheels of a lock file
  vllmd.platform.logged_command:
    argv: [/opt/vllmd/wheelhouse, --cache, /var/cache/vllmd/wheels, cpu.txt]
    with_python: true
    creates: /var/cache/vllmd/wheels/0123456789ab
    log_path: /var/log/vllmd/wheels.log
"""

RETURN = r"""
stdout:
  description: What the command wrote to its standard output; empty when it did not run.
  returned: success
  type: str
log_path:
  description: The log.
  returned: always
  type: str
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import dib, logged, signals


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "argv": {"type": "list", "elements": "str", "required": True},
            "with_python": {"type": "bool", "default": False},
            "creates": {"type": "path", "required": True},
            "log_path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    creates, log_path = Path(module.params["creates"]), Path(module.params["log_path"])
    argv = [sys.executable, *module.params["argv"]] if module.params["with_python"] else module.params["argv"]
    result = {"changed": not creates.exists(), "stdout": "", "log_path": str(log_path)}
    failure = ""
    if result["changed"] and not module.check_mode:
        try:
            status, result["stdout"] = logged.run(argv, log_path)
            if status != 0:
                lines = dib.clean_lines(dib.tail(log_path))
                failure = f"{lines[-1] if lines else f'{argv[0]} ended with status {status}'} (log: {log_path})"
            elif not creates.exists():
                failure = f"{argv[0]} ended well but did not make {creates} (log: {log_path})"
        except signals.Interrupted as signal:
            failure = f"interrupted by {signal}; run it again (log: {log_path})"
        except OSError as error:
            failure = f"cannot run {argv[0]}: {error.filename or ''} {error.strerror or error}"
    if failure:
        module.fail_json(msg=failure, log_path=str(log_path))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
