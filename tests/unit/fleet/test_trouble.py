"""A full partition, and a host that vanishes during a change: one line each, nothing lost, the next run goes on."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from tests.support.small_fleet import SmallFleet, manifest
from vllmdctl.errors import FAILED, UNREACHABLE
from vllmdctl.outcome import Outcome


def environment_file(fleet: SmallFleet, host: str) -> Path:
    (path,) = (fleet.home(host) / ".config/vllmd").glob("hypervisor-*.env")
    return path


def fill(path: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass


def outcome(fleet: SmallFleet, status: int) -> Outcome:
    """How vllmdctl tells the end of the last run."""
    told = Outcome("apply", Path("log"), fleet.directory / "events.jsonl", status=status)
    told.read_events()
    return told


@pytest.fixture
def small_disk(fleet: SmallFleet) -> Path:
    """Where host a keeps environment files: a partition with room for a few of them."""
    directory = fleet.home("a") / ".config/vllmd"
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,mode=755", "none", str(directory)], check=True)
    fleet.mounted.append(directory)
    return directory


def test_a_full_disk_and_a_host_that_vanishes(fleet: SmallFleet, small_disk: Path) -> None:
    fleet.describe(manifest("one", 8001, replicas=2))
    done = fleet.play("plan")
    assert done.returncode == 0, done.stdout
    done = fleet.start()
    assert done.returncode == 0, done.stdout
    running, plan = fleet.running(), fleet.plan_file.read_text()
    before = {host: environment_file(fleet, host).read_text() for host in fleet.hosts}

    # Both are to get another environment file: one disk is full, the other host is gone when its turn comes.
    fill(small_disk / "ballast")
    (fleet.directory / "b.gone").write_text("25")
    other = {"vllmd_kernel_arguments": "tiny.other"}
    done = fleet.start(**other)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    told = outcome(fleet, done.returncode)
    assert {failure.host: failure.unreachable for failure in told.failures} == {"a": False, "b": True}
    assert told.exit_status() == FAILED
    assert "\n" not in told.reason()
    assert {host: environment_file(fleet, host).read_text() for host in fleet.hosts} == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", environment_file(fleet, "a").name]
    assert fleet.running() == running
    assert fleet.plan_file.read_text() == plan

    # There is room again, and the host is back only after another run.
    (small_disk / "ballast").unlink()
    done = fleet.start(**other)
    assert done.returncode == 4, done.stdout
    assert outcome(fleet, done.returncode).exit_status() == UNREACHABLE
    assert outcome(fleet, done.returncode).reason().startswith("cannot reach b: ")
    assert "tiny.other" in environment_file(fleet, "a").read_text()
    (fleet.directory / "b.gone").unlink()
    done = fleet.start(**other)
    assert done.returncode == 0, done.stdout
    assert "tiny.other" in environment_file(fleet, "b").read_text()
    assert fleet.running() == running
