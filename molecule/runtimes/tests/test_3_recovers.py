"""Whatever fails comes back by itself: each layer does its part, and says why.

Faults come three at a time, each to a replica of its own, because most of a recovery is waiting.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Replica, named, recover

QMP = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    with line.makefile("rwb") as stream:
        stream.readline()
        for command in ("qmp_capabilities", "stop"):
            stream.write(json.dumps({"execute": command}).encode() + b"\\n")
            stream.flush()
            print(stream.readline())
"""


def kill_monitor(replica: Replica) -> None:
    """The virtual machine's process dies."""
    replica.host.check_output(f"kill -KILL {replica.pid()}")


def stop_monitor(replica: Replica) -> None:
    """The virtual machine's process hangs."""
    replica.host.check_output(f"kill -STOP {replica.pid()}")


def freeze_guest(replica: Replica) -> None:
    """The virtual machine's processors stand still; its monitor is well."""
    socket = shlex.quote(f"/run/vllmd/{replica.name}/qmp.sock")
    replica.host.check_output(f"python3 -c {shlex.quote(QMP)} {socket}")


def restarts(replica: Replica) -> int:
    """How often systemd has started the unit again."""
    return int(replica.shown("NRestarts"))


@pytest.fixture(scope="module")
def first() -> dict[str, float]:
    """The monitor is killed; the engine is killed; the guest's disk is full."""
    amber, other, birch = named("amber"), named("amber.1"), named("birch")
    return recover(
        {
            "monitor killed": (amber, lambda: kill_monitor(amber)),
            "engine killed": (other, lambda: other.post("/door/exit")),
            "cache disk full": (birch, lambda: birch.post("/door/fill")),
        }
    )


@pytest.fixture(scope="module")
def second(first: dict[str, float]) -> dict[str, float]:
    """The guest is frozen; the monitor is frozen; the engine hangs."""
    assert first
    amber, other, birch = named("amber"), named("amber.1"), named("birch")
    return recover(
        {
            "guest frozen": (amber, lambda: freeze_guest(amber)),
            "monitor frozen": (other, lambda: stop_monitor(other)),
            "engine hangs": (birch, lambda: birch.post("/door/hang")),
        }
    )


def test_a_killed_monitor_is_started_again(first: dict[str, float]) -> None:
    assert "monitor killed" in first
    assert "Main process exited, code=killed, status=9/KILL" in named("amber").journal()


def test_a_killed_engine_is_started_again_in_the_same_guest(first: dict[str, float]) -> None:
    assert "engine killed" in first
    assert restarts(named("amber.1")) == 0


def test_a_full_disk_is_made_good(first: dict[str, float]) -> None:
    assert "cache disk full" in first
    assert named("birch").ask().startswith("release one")


def test_a_frozen_guest_is_started_anew_with_the_reason(second: dict[str, float]) -> None:
    assert "guest frozen" in second
    assert restarts(named("amber")) == 2


def test_a_frozen_monitor_is_started_anew_with_the_reason(second: dict[str, float]) -> None:
    assert "monitor frozen" in second
    assert restarts(named("amber.1")) == 1


def test_a_hanging_engine_is_started_again_by_its_own_guest(second: dict[str, float]) -> None:
    assert "engine hangs" in second
    said = json.dumps(named("birch").inside("journalctl --no-pager --output=cat --unit=vllm.service"))
    assert "Watchdog timeout" in said
