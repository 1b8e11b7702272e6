"""More replicas as requests wait, by the rounds of a timer on one of the hosts; fewer again, and the like, by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FLEET, PROJECT, RUN, SCENARIO, host_named, inventory, named, play, replicas, until

CONTROLLER = "west"
UNITS = ["/etc/systemd/system/vllmd-scale.service", "/etc/systemd/system/vllmd-scale.timer"]


def placed() -> list[str]:
    """Names of the replicas that the plan has."""
    return sorted(replicas())


def begin(*arguments: str) -> subprocess.Popen[str]:
    """Start vllmdctl on this machine, with the same inventory."""
    # What runs in the background may have been told to ignore Ctrl-C.
    command = ["env", "--default-signal=SIGINT", sys.executable, "-m", "vllmdctl", *arguments, f"--inventory={FLEET}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "XDG_STATE_HOME": str(RUN / "state")}
    for name in [each for each in environment if each.startswith("ANSIBLE_")]:
        del environment[name]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **streams)


def vllmdctl(*arguments: str, typed: str = "") -> tuple[str, str]:
    """Run it to its end, which has to be a good one; what it printed, and what it said beside that."""
    process = begin(*arguments)
    printed, said = process.communicate(typed, timeout=1800)
    assert process.returncode == 0, printed + said
    return printed, said


@contextmanager
def following(*arguments: str) -> Iterator[Callable[[str], None]]:
    """Follow what a runtime says; gives a function that waits for a text in it."""
    process = begin(*arguments, "--follow", "--lines=1")
    shown: list[str] = []
    reader = threading.Thread(target=lambda: shown.extend(iter(process.stdout.readline, "")))
    reader.start()
    try:
        until(lambda: shown or process.poll() is not None, "the last line", 120)
        assert process.poll() is None, process.stderr.read()
        yield lambda text: until(lambda: any(text in line for line in shown), f"{text!r} in {shown}", 300)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        reader.join()
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (130, False), said


@pytest.fixture(scope="module")
def timer() -> Iterator[Host]:
    """A host with the timer, and an inventory as an operator keeps it."""
    settings = yaml.safe_load((SCENARIO / "vars/main.yml").read_text(encoding="utf-8"))
    settings |= {"scenario_directory": str(SCENARIO), "scenario_run": str(RUN), "vllmd_scale_up_after": 0}
    # Here the operator's commands say what runs where.
    del settings["vllmd_placements"]
    (FLEET / "group_vars").mkdir(exist_ok=True)
    (FLEET / "group_vars/all.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (FLEET / "hosts.yml").write_text(yaml.safe_dump({"hypervisors": {"hosts": inventory()}}), encoding="utf-8")
    variables = {
        "scale_timer_hosts": CONTROLLER,
        "scale_timer_inventory": str(FLEET),
        "scale_timer_interval": 10,
    }
    outcome = play("scale_timer.yml", **variables)
    assert outcome.returncode == 0, outcome.output
    yield host_named(CONTROLLER)
    outcome = play("scale_timer.yml", **variables, scale_timer_state="absent")
    assert outcome.returncode == 0, outcome.output


def test_a_round_without_load_changes_nothing(timer: Host) -> None:
    def rounds() -> int:
        said = timer.check_output("journalctl --no-pager --output=cat --unit=vllmd-scale.service")
        return said.count("Finished vllmd-scale.service")

    until(lambda: rounds() >= 2, "two rounds", 300)
    assert placed() == ["amber", "amber.1", "birch"]


def test_waiting_requests_bring_a_replica(timer: Host) -> None:
    named("birch").post("/door/load", {"waiting": 6, "running": 1})
    until(lambda: "birch.1" in placed(), "the plan has another replica")
    new = named("birch.1")
    until(new.healthy, "it serves")
    named("birch").post("/door/load", {})
    assert new.placement["host"] != named("birch").placement["host"]
    assert new.ask() == "release one heard: who?"
    journal = timer.check_output("journalctl --no-pager --output=cat --unit=vllmd-scale.service")
    assert "birch: 1 -> 2 replicas, 6 requests wait" in journal


def test_the_timer_goes_without_a_trace(timer: Host) -> None:
    outcome = play("scale_timer.yml", scale_timer_hosts=CONTROLLER, scale_timer_state="absent")
    assert outcome.returncode == 0, outcome.output
    assert [unit for unit in UNITS if timer.file(unit).exists] == []
    assert "vllmd-scale" not in timer.check_output("systemctl list-units --all --no-legend 'vllmd-scale*'")


def test_by_hand_there_is_one_again(timer: Host) -> None:
    assert timer
    gone = named("birch.1")
    vllmdctl("runtimes", "scale", "birch", "1")
    assert placed() == ["amber", "amber.1", "birch"]
    assert not gone.host.file(f"/etc/vllmd/hypervisor/{gone.name}.env").exists
    assert gone.shown("ActiveState") == "inactive"
    listed, _said = vllmdctl("runtimes", "list", "--output=json")
    assert [(each["id"], each["health"]) for each in json.loads(listed)] == [
        ("amber", "healthy"),
        ("amber.1", "healthy"),
        ("birch", "healthy"),
    ]


def test_restarted_by_hand_it_can_be_watched(timer: Host) -> None:
    assert timer
    birch = named("birch")
    before = birch.pid()
    with following("runtimes", "logs", "birch") as waits_for:
        vllmdctl("runtimes", "restart", "birch")
        waits_for("birch serves")
    assert birch.pid() != before
    assert birch.healthy()
    with following("runtimes", "console", "birch") as waits_for:
        birch.post("/door/load", {})
        waits_for("stub: door load")


@pytest.mark.parametrize("time", ["first", "second"])  # a console has one reader at a time
def test_a_console_is_attached_to_and_left(timer: Host, time: str) -> None:
    assert timer
    process = begin("runtimes", "console", "birch", "--attach")
    until(lambda: "attached to birch" in process.stderr.readline() or process.poll() is not None, "it is attached", 120)
    named("birch").post("/door/load", {})
    shown = ""
    while "stub: door load" not in shown:
        line = process.stdout.readline()
        assert line, (time, process.stderr.read())
        shown += line
    _shown, said = process.communicate("\x1d", timeout=60)
    assert (process.returncode, "detached" in said) == (0, True), said
