"""What the command line's tests share: a home of their own, and the program as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Ctl = Callable[..., "subprocess.CompletedProcess[str]"]

HOSTS = """\
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    vllmd_runtime_manifests: "{{ query('ansible.builtin.fileglob', inventory_dir ~ '/runtimes/*.yaml') | sort }}"
    runtime_assembler_store_dir: "{{ inventory_dir }}/store"
  children:
    builders: {hosts: {localhost: }}
    hypervisors: {hosts: {localhost: }}
"""
MANIFEST = (ROOT / "inventories/local/runtime.yaml").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of the test's own, and nothing of the developer's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("VLLMD_INVENTORY", "VLLMD_URL", "VLLMD_API_KEY", "ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def inventory(home: Path) -> Path:
    """The environment's inventory: this machine, no runtime yet."""
    directory = home / "config/vllmd/inventory"
    (directory / "runtimes").mkdir(parents=True)
    (directory / "hosts.yml").write_text(HOSTS)
    return directory


@pytest.fixture
def ctl(home: Path) -> Ctl:
    """Run the program. Whatever it is told, it ends with one of its own words, never with Python's."""

    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "vllmdctl", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=home,
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run
