"""A connection to this machine that breaks when it is told to, as one to a host that vanishes during a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: vanishing
short_description: A local connection that breaks
description:
  - Behaves as a local one while the file O(gone) is missing, or holds a number above 0, which each command lowers.
author: vllmd.platform maintainers
options:
  gone:
    description: The file.
    type: path
    required: true
    vars:
      - name: vanishing_gone
  become_success_timeout:
    description: As a local one has it.
    type: int
    default: 10
  become_strip_preamble:
    description: As a local one has it.
    type: bool
    default: true
  pipelining:
    description: Whether modules are piped into the interpreter.
    type: bool
    default: true
    vars:
      - name: ansible_pipelining
"""


class Connection(Local):  # type: ignore[misc]
    """Runs commands as a local connection does, until the host is gone."""

    transport = "vanishing"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
        """Run a command; AnsibleConnectionFailure when the host is gone."""
        gone = Path(self.get_option("gone"))
        if gone.exists():
            left = int(gone.read_text() or 0)
            if left <= 0:
                raise AnsibleConnectionFailure(f"connect to host {self._play_context.remote_addr}: No route to host")
            gone.write_text(str(left - 1))
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
