"""Playbooks of the collection on the hosts of a scenario, and waiting for what comes of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def inventory() -> list[Path]:
    """The scenario's hosts, and beside them what an operator's inventory says of all of them."""
    hosts = Path(os.environ["MOLECULE_INVENTORY_FILE"])
    directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "operator"
    (directory / "group_vars").mkdir(parents=True, exist_ok=True)
    (directory / "hosts.yml").write_text("all: {}\n", encoding="utf-8")
    variables = directory / "group_vars/all.yml"
    variables.unlink(missing_ok=True)
    variables.symlink_to(ROOT / "molecule/shared/kubernetes/vars/main.yml")
    return [hosts, directory]


def play(name: str, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the inventory's variables and `variables`, which win."""
    given = {"control_plane_hosts": "control_plane", "node_hosts": "nodes", **variables}
    command = [
        "ansible-playbook",
        *(f"--inventory={each}" for each in inventory()),
        f"--extra-vars={json.dumps(given)}",
        *arguments,
        str(ROOT / "playbooks" / f"{name}.yml"),
    ]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    environment.pop("ANSIBLE_STDOUT_CALLBACK", None)
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
        timeout=1800,
    )


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    """Return once `condition` is true; an API server that does not answer just now is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except AssertionError:
            pass
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(1)
