"""Fixtures: a host made of files, and a configuration that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.boot_files import bzimage, write
from tests.support.launcher import Launcher
from tests.support.sysfs import FakeHost


@pytest.fixture
def fake_host(tmp_path: Path) -> FakeHost:
    """Return a host of 64 GiB without devices, below tmp_path."""
    return FakeHost(tmp_path / "host")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the variables of a small runtime named r1, with real files of a few KiB in tmp_path."""
    files = {
        "KERNEL_FILEPATH": write(tmp_path / "vmlinuz", bzimage()),
        "SYSTEM_IMAGE_FILEPATH": write(tmp_path / "system.raw", bytes(8192)),
        "CONFIG_IMAGE_FILEPATH": write(tmp_path / "config.iso", bytes(4096)),
        "RUN_DIRPATH": tmp_path / "run",
    }
    variables = {name: str(path) for name, path in files.items()} | {
        "NAME": "r1",
        "CPU_COUNT": "1",
        "MEMORY_CONFIG": "size=256M,shared=on",
    }
    return {f"VLLMD_HYPERVISOR_{name}": value for name, value in variables.items()} | {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def launcher(tmp_path: Path, environment: dict[str, str]) -> Iterator[Launcher]:
    """Return the launcher as a command, for the small runtime; what it started is ended after the test."""
    made = Launcher(tmp_path, environment)
    yield made
    made.close()
