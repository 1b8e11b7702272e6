"""The lock: held exactly as long as the process that took it, whatever files say and whoever looks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launcher import PACKAGE_ROOT, Launcher
from vllmd_hypervisor.config import Identity
from vllmd_hypervisor.errors import LaunchError
from vllmd_hypervisor.state import AlreadyRunningError, RunDirectory

# Takes the lock, records itself, and becomes a `sleep` that inherits the descriptor, as `start` becomes the VMM.
_HOLD = """\
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from vllmd_hypervisor.config import Identity
from vllmd_hypervisor.state import RunDirectory
run = RunDirectory(Identity("r1", Path(sys.argv[2])))
descriptor = run.acquire()
if sys.argv[3] == "record":
    run.record(descriptor, "qemu")
os.set_inheritable(descriptor, True)
print("locked", flush=True)
os.execv("/bin/sleep", ["vllmd-hypervisor", "60"])
"""


class Holding:
    """A runtime directory and the processes that hold its lock."""

    def __init__(self, directory: Path) -> None:
        self.run = RunDirectory(Identity("r1", directory))
        self.directory = directory
        self.processes: list[subprocess.Popen[str]] = []

    def hold(self, how: str = "record") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLD, str(PACKAGE_ROOT), str(self.directory), how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        deadline = time.monotonic() + 10
        while b"python" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Holding]:
    made = Holding(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_the_lock_survives_exec_and_dies_with_the_process(holding: Holding) -> None:
    process = holding.hold()
    holder = holding.run.find_holder()
    assert holder
    assert (holder.pid, holder.backend) == (process.pid, "qemu")
    os.close(holder.pidfd)
    with pytest.raises(AlreadyRunningError, match=f"r1 is already running \\(pid {process.pid}\\); stop it first"):
        holding.run.acquire()
    process.kill()
    process.wait()
    assert holding.run.find_holder() is None
    holding.run.remove(holding.run.acquire())
    assert not holding.run.path.exists()


def test_what_a_dead_vmm_left_is_removed_and_nothing_else(holding: Holding) -> None:
    process = holding.hold()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(holding.run.qmp_socket))
    stale.close()
    (holding.run.path / "notes").write_text("mine")
    process.kill()
    process.wait()
    holding.run.remove_if_free()
    assert [path.name for path in holding.run.path.iterdir()] == ["notes"]


def test_nothing_is_removed_while_a_vmm_lives(holding: Holding) -> None:
    holding.hold()
    holding.run.remove_if_free()
    assert holding.run.lock.exists()
    assert holding.run.pid.exists()


def test_a_recycled_pid_in_a_file_is_not_believed(holding: Holding) -> None:
    """Files name a living process that has nothing to do with the runtime: it is not running, and nobody is hit."""
    bystander = subprocess.Popen(["/bin/sleep", "60"])
    try:
        holding.run.path.mkdir()
        holding.run.lock.write_text(json.dumps({"pid": bystander.pid, "backend": "qemu"}))
        holding.run.pid.write_text(f"{bystander.pid}\n")
        assert holding.run.find_holder() is None
        holding.run.remove_if_free()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_lock_that_no_start_recorded_is_unknown_not_stopped(holding: Holding) -> None:
    process = holding.hold("silent")
    with pytest.raises(LaunchError, match=f"is held by pid {process.pid}, which is no VMM that start made here"):
        holding.run.find_holder()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}', "\x00\xff"])
def test_damaged_records_are_survived(holding: Holding, content: str) -> None:
    process = holding.hold()
    holding.run.lock.write_text(content)
    with pytest.raises(LaunchError, match="is held by pid"):
        holding.run.find_holder()
    process.kill()
    process.wait()
    assert holding.run.find_holder() is None


def test_of_many_starts_at_once_one_wins(holding: Holding) -> None:
    command = [sys.executable, "-c", _HOLD, str(PACKAGE_ROOT), str(holding.directory), "record"]
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        holding.processes.append(process)
    deadline = time.monotonic() + 30
    while sum(process.poll() is None for process in holding.processes) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    holder = holding.run.find_holder()
    assert holder
    os.close(holder.pidfd)
    (alive,) = [process.pid for process in holding.processes if process.poll() is None]
    assert holder.pid == alive
    for process in holding.processes:
        if process.poll() is not None:
            assert process.stderr
            assert "already running" in process.stderr.read()


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(Identity("r1", tmp_path))
    run.path.mkdir(mode=0o700)
    run.path.chmod(0o777)
    with pytest.raises(LaunchError, match="is not a directory that only this user may write"):
        run.acquire()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    run = RunDirectory(Identity("r1", tmp_path))
    run.path.mkdir(mode=0o700)
    (tmp_path / "victim").write_text("precious")
    run.lock.symlink_to(tmp_path / "victim")
    with pytest.raises(LaunchError, match="cannot lock"):
        run.acquire()
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_run_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"cannot make the run directory .*: File exists"):
        RunDirectory(Identity("r1", tmp_path / "file")).acquire()


def test_stop_works_from_another_user_namespace(launcher: Launcher, tmp_path: Path) -> None:
    """PrivateUsers= puts ExecStop= in a user namespace beside the VMM's, where /proc tells nothing about it."""
    vmm = tmp_path / "qemu"
    vmm.write_text("#!/bin/sh\nexec sleep 60\n")
    vmm.chmod(0o755)
    process = launcher.start(VMM_FILEPATH=str(vmm))
    launcher.wait_until(lambda: launcher.status()["state"] == "running", "running VMM")
    launcher.command = ["unshare", "--user", "--map-current-user", *launcher.command]
    stopped = launcher.call("stop", STOP_TIMEOUT_SECONDS="0")
    assert stopped.returncode == 0, stopped.stderr
    assert process.wait(10) == -signal.SIGKILL
