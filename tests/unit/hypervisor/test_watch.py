"""The watch beside a running VMM: a stub VMM whose guest serves, and a test in systemd's place."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.launcher import PREFIX, Launcher, free_port, helpers_of
from tests.support.notify_socket import Systemd
from tests.support.stub_vmm import make_stub
from tests.support.sysfs import FakeHost

LIMITS = "interval=1,silence=4,start=6"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


MakeWatched = Callable[..., tuple[Launcher, int]]


@pytest.fixture
def watched(
    tmp_path: Path, environment: dict[str, str], fake_host: FakeHost, systemd: Systemd
) -> Iterator[MakeWatched]:
    """Return a function that starts a VMM whose guest serves (or not) under a watching systemd: (launcher, pid)."""
    made: list[Launcher] = []

    def make(*, serves: bool = True, limits: str = LIMITS, **variables: str) -> tuple[Launcher, int]:
        port = free_port()
        script, _ = make_stub(tmp_path, **({"serve": port} if serves else {}))
        settings = {
            PREFIX + "VMM_FILEPATH": str(script),
            # The stub's guest answers on this host's own loopback; no tap is made for it.
            PREFIX + "HEALTH": f"url=http://127.0.0.1:{port}/health,{limits}",
            PREFIX + "NETWORK": "mode=tap,tap=none",
            "NOTIFY_SOCKET": str(systemd.path),
            "WATCHDOG_USEC": "20000000",
        }
        launcher = Launcher(tmp_path, environment | settings | variables, fake_host.root)
        # A tap takes privileges that this test needs for nothing.
        launcher.command[3] = launcher.command[3].replace(
            "from vllmd_hypervisor.cli",
            "import vllmd_hypervisor.start as s\ns.open_network = print\nfrom vllmd_hypervisor.cli",
        )
        made.append(launcher)
        return launcher, launcher.start().pid

    yield make
    for launcher in made:
        launcher.close()


def health(launcher: Launcher) -> dict[str, Any]:
    found: dict[str, Any] = launcher.status()["health"]
    return found


def test_ready_when_it_serves_and_watched_until_it_ends(watched: MakeWatched, systemd: Systemd) -> None:
    launcher, pid = watched()
    status = systemd.wait_for("READY=1")
    assert status == "r1 serves: cloud-hypervisor (kvm), 1 vCPUs, 256M memory, 0 devices"
    systemd.wait_for("WATCHDOG=1")
    assert systemd.heard[0] == (
        "STATUS=r1 runs and does not serve yet: cloud-hypervisor (kvm), 1 vCPUs, 256M memory, 0 devices"
    )
    report = health(launcher)
    assert (report["healthy"], report["served"], report["failures"], report["error"]) == (True, True, 0, "")
    assert launcher.call("status").stdout.startswith(f"r1 is running (pid {pid}, cloud-hypervisor, ")
    assert "Running; healthy for " in launcher.call("status").stdout
    (helper,) = set(helpers_of(launcher)) - {pid}
    assert Path(f"/proc/{helper}/comm").read_text() == "vllmd-health\n"
    assert not [each for each in held_files(helper) if "/lock" in each or "api.sock" in each]
    assert launcher.call("stop").returncode == 0
    launcher.wait_until(lambda: not helpers_of(launcher), "end of the watch")
    assert not launcher.run_directory.exists()
    assert "vllmd-hypervisor: r1 serves: http://127.0.0.1:" in launcher.errors.read_text()


def held_files(pid: int) -> list[str]:
    """What a process has open, locks named by their file."""
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_stopped_vmm_is_noticed_by_its_silence(watched: MakeWatched, systemd: Systemd) -> None:
    launcher, pid = watched()
    systemd.wait_for("READY=1")
    os.kill(pid, signal.SIGSTOP)
    status = systemd.wait_for("WATCHDOG=trigger")
    assert status.startswith("r1 has not answered at all for ")
    assert status.endswith("its virtual machine is killed, and started again by its unit")
    said = launcher.errors.read_text().splitlines()
    assert f"vllmd-hypervisor: {status}" in said
    assert "r1 is not healthy: http://127.0.0.1:" in said[-2]
    assert ": no answer within 1 s; its virtual machine is restarted after 4 s without any answer or 6 s" in said[-2]
    os.kill(pid, signal.SIGKILL)  # what systemd does then
    launcher.wait_until(lambda: not helpers_of(launcher), "end of the watch")


def test_a_vmm_that_goes_on_in_time_is_let_go_on(watched: MakeWatched, systemd: Systemd) -> None:
    launcher, pid = watched(limits="interval=1,silence=40,start=600", WATCHDOG_USEC="90000000")
    systemd.wait_for("READY=1")
    os.kill(pid, signal.SIGSTOP)
    launcher.wait_until(lambda: "r1 is not healthy" in launcher.errors.read_text(), "line about the trouble")
    systemd.wait_for("WATCHDOG=1")
    report = json.loads((launcher.run_directory / "health.json").read_text())
    assert (report["healthy"], report["served"], report["pid"]) == (False, True, pid)
    assert report["failures"] >= 1
    os.kill(pid, signal.SIGCONT)
    launcher.wait_until(lambda: "r1 serves again" in launcher.errors.read_text(), "line about the recovery")
    assert health(launcher)["healthy"]
    assert "WATCHDOG=trigger" not in systemd.heard


def test_a_guest_that_never_serves_is_given_up_at_its_limit(watched: MakeWatched, systemd: Systemd) -> None:
    launcher, _pid = watched(serves=False)
    launcher.wait_until(lambda: health(launcher) is not None and health(launcher)["failures"] > 0, "a first failure")
    assert "Running; does not serve yet, after " in launcher.call("status").stdout
    assert "Connection refused" in launcher.call("status").stdout
    status = systemd.wait_for("WATCHDOG=trigger")
    assert status.startswith("r1 did not serve within 6 s of its start (http://127.0.0.1:")
    assert "READY=1" not in systemd.heard
    assert "WATCHDOG=1" in systemd.heard


@pytest.mark.parametrize(
    "variables", [{"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}, {PREFIX + "HEALTH": ""}]
)
def test_without_a_watchdog_or_a_url_it_is_as_before(
    watched: MakeWatched, systemd: Systemd, variables: dict[str, str]
) -> None:
    launcher, _pid = watched(serves=False, **variables)
    status = systemd.wait_for("READY=1")
    assert status == "r1 runs: cloud-hypervisor (kvm), 1 vCPUs, 256M memory, 0 devices"
    launcher.wait_until(lambda: not helpers_of(launcher), "end of the helper")
    assert launcher.status()["health"] is None


def test_a_unit_whose_watchdog_is_too_fast_is_refused(watched: MakeWatched, launcher: Launcher) -> None:
    watching, _pid = watched(limits="interval=10,silence=120,start=900", WATCHDOG_USEC="30000000")
    assert watching.processes[0].wait(20) == 2
    assert watching.errors.read_text() == (
        "vllmd-hypervisor: the unit's WatchdogSec is 30 s, but with VLLMD_HYPERVISOR_HEALTH as it is up to 40 s pass "
        "between two reports; set WatchdogSec to 80 s or more\n"
    )
    assert launcher.call("start", HEALTH="url=http://127.0.0.1:1/").stderr == (
        'vllmd-hypervisor: VLLMD_HYPERVISOR_HEALTH="url=http://127.0.0.1:1/": nothing can answer: the runtime has '
        "VLLMD_HYPERVISOR_NETWORK=none\n"
    )
