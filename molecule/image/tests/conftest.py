"""What the image's tests share: the image's own tree, its manifest, and the guest read in one round trip.

Tests of a layer (``test_debian.py`` ...) look into the image file itself, mounted read-only, so most checks cost
milliseconds. Tests of the running guest (``test_guest_*.py``) ask what only a running system knows; a command there
costs up to a second, so each file reads all it needs with one.

``VLLMD_IMAGE`` names the directory of another published version. Without a guest, on any image, as root::

    export VLLMD_IMAGE=/var/lib/vllmd/images/vllmd-cuda/latest
    python -m pytest molecule/image/tests --ignore-glob='*test_guest*'
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

IMAGE = Path(os.environ.get("VLLMD_IMAGE", "/var/lib/vllmd/images/vllmd-cpu/latest"))
TREE = Path("/mnt")
CLONE_NEWNS = 0x00020000  # unshare(2)
SEPARATOR = "---8<---"


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    """What the image's manifest says of it."""
    return json.loads((IMAGE / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tree() -> Path:
    """The image's root, mounted read-only.

    In a mount namespace of this process's own, so that nothing stays mounted however the run ends. Its programs get
    what they expect of a root: /proc, /dev and an empty /run and /tmp.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        pytest.fail(f"cannot make a mount namespace: {os.strerror(ctypes.get_errno())}; run this as root")
    commands = [
        ["mount", "--make-rprivate", "/"],
        ["mount", "-o", "ro,loop,noload,nosuid", str((IMAGE / "system.raw").resolve()), str(TREE)],
        ["mount", "-t", "proc", "proc", str(TREE / "proc")],
        ["mount", "--rbind", "/dev", str(TREE / "dev")],
        *(["mount", "-t", "tmpfs", "tmpfs", str(TREE / name)] for name in ("run", "tmp", "var/tmp")),
    ]
    for command in commands:
        subprocess.run(command, check=True)
    return TREE


@pytest.fixture(scope="session")
def image(tree: Path) -> Host:
    """The image's root as a host of testinfra's, for which no machine runs."""
    return testinfra.get_host(str(tree), connection="chroot")


@pytest.fixture(scope="session")
def lines(tree: Path) -> Callable[[str], list[str]]:
    """A function: the lines that a shell command says, run in the image's root; it has to succeed silently."""

    def run(command: str) -> list[str]:
        result = subprocess.run(
            ["chroot", str(tree), "/bin/sh", "-c", command], capture_output=True, text=True, check=False, cwd="/"
        )
        assert (result.returncode, result.stderr) == (0, ""), f"{command}: {result.stderr}"
        return result.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def units(tree: Path) -> dict[str, Path]:
    """The units that this project brings, by name."""
    directory = tree / "usr/lib/systemd/system"
    return {path.name: path for path in sorted(directory.glob("vllm*.service"))}


@pytest.fixture(scope="module")
def ask(host: Any) -> Iterator[Callable[[dict[str, str]], dict[str, str]]]:
    """A function: from ``{name: shell command}`` to ``{name: output}``, all of them in one round trip."""

    def run(commands: dict[str, str]) -> dict[str, str]:
        script = "".join(f"echo '{SEPARATOR}{name}'; ( {command} ) 2>&1\n" for name, command in commands.items())
        found = {}
        for section in host.run(script).stdout.split(SEPARATOR)[1:]:
            name, _, output = section.partition("\n")
            found[name] = output.rstrip("\n")
        assert found.keys() == commands.keys()
        return found

    yield run
