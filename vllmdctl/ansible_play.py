# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How playbooks are run: the options of a command, and the ansible-playbook command that they stand for."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import places


@dataclass(frozen=True)
class Play:
    """How playbooks are run: what all commands' options say."""

    inventory: Path
    limit: str | None = None
    check: bool = False
    diff: bool = False
    verbose: int = 0
    extra: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)

    def command(self, names: Sequence[str], variables: dict[str, Any]) -> list[str]:
        """Return the ansible-playbook command for the playbooks of these verbs."""
        command = [places.program("ansible-playbook"), *(str(places.playbook(name)) for name in names)]
        command += ["-i", str(self.inventory)]
        command += ["--limit", self.limit] if self.limit else []
        command += ["--check"] if self.check else []
        command += ["--diff"] if self.diff else []
        command += ["-" + "v" * (self.verbose - 1)] if self.verbose > 1 else []
        merged = {**self.variables, **variables}
        command += ["-e", json.dumps(merged)] if merged else []
        for each in self.extra:
            command += ["-e", each]
        return command


def settings() -> dict[str, str]:
    """Return the environment variables that make the command find the collection, as to be typed by hand."""
    platform = places.platform_directory()
    return {
        "ANSIBLE_CONFIG": os.environ.get("ANSIBLE_CONFIG") or str(platform / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(platform / "collection"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
    }


def by_hand(command: Sequence[str]) -> str:
    """Return the command as a line to type into a shell."""
    shown = [f"{name}={shlex.quote(value)}" for name, value in settings().items() if name != "PATH"]
    return " ".join([f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH", *shown, shlex.join(command)])
