"""Run one of the collection's modules as its own process, the way Ansible does, and return its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def command(
    module: str, arguments: dict[str, Any], directory: Path, check: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Write the module's arguments below ``directory`` and return its command line and environment.

    Who is not root becomes root in a user namespace: mount and PID namespaces then work the same.
    """
    path = directory / f"{module}-arguments.json"
    given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(directory)}
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": given}))
    prefix = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    program = [sys.executable, str(ROOT / "plugins/modules" / f"{module}.py"), str(path)]
    return [*prefix, *program], {**os.environ, "PYTHONPATH": str(ROOT / "collection")}


def run(module: str, arguments: dict[str, Any], directory: Path, check: bool = False) -> dict[str, Any]:
    """Run the module to its end and return its result; a refusal is one line, a traceback fails the test."""
    arguments_list, environment = command(module, arguments, directory, check)
    done = subprocess.run(arguments_list, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("failed"):
        assert len(str(result["msg"]).splitlines()) == 1, result["msg"]
    return result
