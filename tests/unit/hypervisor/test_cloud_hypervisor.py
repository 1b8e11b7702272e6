"""The cloud-hypervisor backend from start to stop, against a stub that speaks its socket protocol."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.launcher import OWN_NETWORK, PREFIX, Launcher, helpers_of, in_network_of
from tests.support.openapi import VARIABLE, CloudHypervisorApi, description_path
from tests.support.stub_vmm import make_stub, read_record
from tests.support.sysfs import AUDIO, GPU, FakeHost

MakeLauncher = Callable[..., Launcher]


@pytest.fixture
def stubbed(tmp_path: Path, environment: dict[str, str], fake_host: FakeHost) -> Iterator[MakeLauncher]:
    """Return a function that makes a launcher whose VMM is a stub of the given behaviour."""
    made: list[Launcher] = []

    def make(**behaviour: Any) -> Launcher:
        script, _ = make_stub(tmp_path, **behaviour)
        launcher = Launcher(tmp_path, environment | {PREFIX + "VMM_FILEPATH": str(script)}, fake_host.root)
        made.append(launcher)
        return launcher

    yield make
    for launcher in made:
        launcher.close()


def running(launcher: Launcher, **variables: str) -> int:
    process = launcher.start(**variables)
    launcher.wait_for_output("stub guest: booted")
    return process.pid


def record_of(launcher: Launcher) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return read_record(launcher.directory / "stub-record.jsonl")


def test_start_creates_and_boots_and_stop_presses_the_button(stubbed: MakeLauncher, fake_host: FakeHost) -> None:
    fake_host.device("0000:01:00.0", 7, "vfio-pci", GPU)
    fake_host.device("0000:01:00.1", 7, "vfio-pci", AUDIO)
    launcher = stubbed()
    pid = running(launcher, DEVICE_FILEPATH_LIST="/dev/vfio/7")
    status = launcher.status()
    assert (status["state"], status["pid"], status["backend"]) == ("running", pid, "cloud-hypervisor")
    assert (status["vm_state"], status["exit"]) == ("Running", 0)
    assert list(status["sockets"]) == ["api"]
    launcher.wait_until(lambda: not helpers_of(launcher), "end of the helper")

    stopped = launcher.call("stop")
    assert (stopped.returncode, stopped.stderr.split(" in ")[0]) == (
        0,
        "vllmd-hypervisor: r1 stopped: the guest powered off",
    )
    assert launcher.processes[0].wait(10) == 0
    assert not launcher.run_directory.exists()

    facts, requests = record_of(launcher)
    assert [request["resource"] for request in requests] == [
        "vmm.ping",
        "vm.create",
        "vm.boot",
        "vm.info",
        "vm.power-button",
    ]
    assert [device["path"] for device in requests[1]["body"]["devices"]] == [
        "/sys/bus/pci/devices/0000:01:00.0/",
        "/sys/bus/pci/devices/0000:01:00.1/",
    ]
    for request in requests:
        CloudHypervisorApi().check_request(request["method"], request["resource"], request["body"])
    assert facts["comm"] == "vllmd-hyperviso"  # the kernel keeps 15 characters
    assert facts["arguments"][0] == "--api-socket"
    assert not [name for name in facts["environment"] if name.startswith(PREFIX)]


def test_a_second_start_is_refused_while_the_first_lives(stubbed: MakeLauncher) -> None:
    launcher = stubbed()
    pid = running(launcher)
    second = launcher.call("start")
    assert (second.returncode, second.stderr) == (
        1,
        f"vllmd-hypervisor: r1 is already running (pid {pid}); stop it first\n",
    )
    assert launcher.status()["pid"] == pid


def test_a_refused_configuration_is_one_line_and_ends_the_vmm(stubbed: MakeLauncher) -> None:
    causes = ["Error from API", "The VM could not be created", "Failed to validate config:\n identifier is not unique"]
    launcher = stubbed(refuse={"vm.create": causes})
    process = launcher.start()
    assert process.wait(20) == -signal.SIGKILL
    launcher.wait_until(lambda: not launcher.run_directory.exists(), "clean run directory")
    assert launcher.errors.read_text() == (
        "vllmd-hypervisor: r1: cloud-hypervisor refused vm.create (HTTP 500): Error from API: "
        "The VM could not be created: Failed to validate config: identifier is not unique\n"
    )


def test_a_boot_that_fails_ends_the_vmm(stubbed: MakeLauncher) -> None:
    launcher = stubbed(refuse={"vm.boot": "cannot load kernel"})
    assert launcher.start().wait(20) != 0
    assert "refused vm.boot (HTTP 500): cannot load kernel" in launcher.errors.read_text()


def test_a_vmm_that_speaks_something_else_is_ended(stubbed: MakeLauncher) -> None:
    launcher = stubbed(garbage=True)
    assert launcher.start().wait(20) != 0
    assert "what answers on the API socket does not speak HTTP" in launcher.errors.read_text()


def test_a_vmm_that_dies_at_once_leaves_nothing(stubbed: MakeLauncher) -> None:
    launcher = stubbed(die_at_once=True)
    assert launcher.start().wait(20) == 1
    launcher.wait_until(lambda: not launcher.run_directory.exists(), "clean run directory")
    assert launcher.errors.read_text() == "stub: cannot open /dev/kvm\n"


def test_a_guest_that_ignores_the_button_is_ended_by_the_vmm(stubbed: MakeLauncher) -> None:
    launcher = stubbed(deaf=["vm.power-button"])
    running(launcher)
    stopped = launcher.call("stop", STOP_TIMEOUT_SECONDS="1")
    assert stopped.returncode == 0
    assert "did not power off in 1 s, so the VMM was told to quit" in stopped.stderr
    assert launcher.processes[0].wait(10) == 0


def test_a_vmm_that_ignores_everything_is_killed(stubbed: MakeLauncher) -> None:
    launcher = stubbed(deaf=["vm.power-button", "vmm.shutdown"], ignore_sigterm=True)
    running(launcher)
    stopped = launcher.call("stop", STOP_TIMEOUT_SECONDS="1")
    assert stopped.returncode == 0
    assert "did not power off in 1 s and the VMM did not quit, so it was killed" in stopped.stderr
    assert launcher.processes[0].wait(10) == -signal.SIGKILL
    assert not launcher.run_directory.exists()


def test_a_vmm_without_its_socket_can_be_stopped(stubbed: MakeLauncher) -> None:
    launcher = stubbed(no_socket=True)
    process = launcher.start()
    launcher.wait_until(lambda: launcher.status()["state"] == "running", "running VMM")
    assert "does not answer" in launcher.status()["message"]
    stopped = launcher.call("stop", STOP_TIMEOUT_SECONDS="1")
    assert (stopped.returncode, process.wait(10)) == (0, -signal.SIGKILL)
    assert "no guest could be asked to power off" in stopped.stderr


def test_stop_without_a_timeout_does_not_ask_the_guest(stubbed: MakeLauncher) -> None:
    launcher = stubbed()
    running(launcher)
    assert launcher.call("stop", STOP_TIMEOUT_SECONDS="0").returncode == 0
    assert "vm.power-button" not in [request["resource"] for request in record_of(launcher)[1]]


def test_a_killed_vmm_is_stopped_and_starts_again(stubbed: MakeLauncher) -> None:
    launcher = stubbed()
    pid = running(launcher)
    os.kill(pid, signal.SIGKILL)
    launcher.processes[0].wait()
    assert (launcher.run_directory / "api.sock").exists()
    status = launcher.status()
    assert (status["state"], status["exit"], status["pid"]) == ("stopped", 3, None)
    launcher.output.write_text("")
    assert running(launcher) != pid
    assert launcher.call("stop").returncode == 0


def test_systemd_is_told_when_the_guest_runs(stubbed: MakeLauncher, tmp_path: Path) -> None:
    launcher = stubbed()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)
        launcher.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        running(launcher)
        lines = channel.recv(4096).decode().splitlines()
    assert lines == ["READY=1", "STATUS=r1 runs: cloud-hypervisor (kvm), 1 vCPUs, 256M memory, 0 devices"]
    assert "NOTIFY_SOCKET" not in record_of(launcher)[0]["environment"]


def test_the_log_is_appended_to_and_private(stubbed: MakeLauncher, tmp_path: Path) -> None:
    launcher = stubbed()
    log = tmp_path / "guest.log"
    log.write_text("before\n")
    launcher.start(LOG_FILEPATH=str(log))
    launcher.wait_until(lambda: "booted" in log.read_text(), "guest output in the log")
    assert log.read_text() == "before\nstub guest: booted\n"
    launcher.call("stop")
    log.unlink()
    launcher.start(LOG_FILEPATH=str(log))
    launcher.wait_until(lambda: log.exists() and "booted" in log.read_text(), "guest output in a new log")
    assert log.stat().st_mode & 0o777 == 0o640


def test_its_tap_lives_from_start_to_stop(stubbed: MakeLauncher) -> None:
    """Cloud Hypervisor opens a tap by name, so it must outlive the launcher, and `stop` must remove it."""
    launcher = stubbed()
    plain = launcher.command
    launcher.command = [*OWN_NETWORK, *plain]
    pid = running(launcher, NETWORK="mode=tap,tap=vmtap0")
    assert record_of(launcher)[1][1]["body"]["net"][0]["tap"] == "vmtap0"
    # One more process keeps the namespace, so that it can be looked into after the VMM's end.
    keeper = subprocess.Popen([*in_network_of(pid), "sleep", "60"])
    try:
        network = Path(f"/proc/{pid}/ns/net").readlink()
        launcher.wait_until(lambda: Path(f"/proc/{keeper.pid}/ns/net").readlink() == network, "keeper")
        look = [*in_network_of(keeper.pid), "ip", "-details", "-oneline", "link", "show", "type", "tun"]
        links = subprocess.run(look, capture_output=True, text=True, check=True).stdout
        assert "vmtap0:" in links
        assert "persist on" in links
        launcher.command = [*in_network_of(keeper.pid), *plain]
        assert launcher.call("stop").returncode == 0
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout == ""
    finally:
        keeper.kill()
        keeper.wait()


def test_debug_shows_command_and_body(stubbed: MakeLauncher) -> None:
    launcher = stubbed()
    running(launcher, DEBUG="1")
    said = launcher.errors.read_text().splitlines()
    assert any("debug: exec" in line and "--api-socket" in line for line in said)
    assert any('debug: vm.create {"cpus"' in line for line in said)


def test_without_a_description_the_judge_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere.yaml"))
    with pytest.raises(RuntimeError, match=f"set {VARIABLE} to a copy of"):
        description_path()
