"""Hosts of a run, and one that hangs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import testinfra


def of_run(name: str) -> Any:
    """One host of this run."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])


@contextmanager
def hanging(name: str) -> Iterator[None]:
    """Stop everything on a container, as on a machine whose kernel hangs; it goes on afterwards."""
    project, scenario = os.environ["MOLECULE_PROJECT_DIRECTORY"], os.environ["MOLECULE_SCENARIO_DIRECTORY"]
    checkout = hashlib.sha256(project.encode()).hexdigest()[:6]
    group = f"vllmd-molecule-{Path(scenario).name.replace('_', '-')}-{checkout}-{name}"
    state = Path("/sys/fs/cgroup/freezer", group, "freezer.state")
    state.write_text("FROZEN", encoding="ascii")
    try:
        yield
    finally:
        state.write_text("THAWED", encoding="ascii")
