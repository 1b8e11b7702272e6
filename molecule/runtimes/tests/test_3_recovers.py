"""Whatever fails comes back by itself: each layer does its part, and says why.

Each replica has faults of its own, all three at the same time, because most of a recovery is waiting.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Recovery, Replica, named, recover, until

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


def hang_engine(replica: Replica) -> None:
    """The engine answers nobody any more, after its guest has seen it well: only then is it watched."""
    until(
        lambda: replica.inside("systemctl show --value --property=WatchdogUSec vllm").strip() not in ("0", "infinity"),
        f"the guest of {replica.name} watches its engine",
        120,
    )
    replica.post("/door/hang")


@pytest.fixture(scope="module")
def made_good() -> dict[str, Recovery]:
    """What came of each fault."""
    return recover(
        {
            "amber": [("monitor killed", kill_monitor), ("guest frozen", freeze_guest)],
            "amber.1": [
                ("engine killed", lambda replica: replica.post("/door/exit")),
                ("engine hangs", hang_engine),
                ("monitor frozen", stop_monitor),
            ],
            "birch": [("cache disk full", lambda replica: replica.post("/door/fill"))],
        }
    )


def test_a_killed_monitor_is_started_again(made_good: dict[str, Recovery]) -> None:
    found = made_good["monitor killed"]
    assert found.restarts == 1
    assert "Main process exited, code=killed, status=9/KILL" in found.journal


@pytest.mark.parametrize("what", ["guest frozen", "monitor frozen"])
def test_what_is_frozen_is_started_anew_with_the_reason(made_good: dict[str, Recovery], what: str) -> None:
    found = made_good[what]
    assert found.restarts == 1
    assert "has not answered at all for" in found.journal


@pytest.mark.parametrize("what", ["engine killed", "engine hangs"])
def test_an_engine_is_started_again_by_its_own_guest(made_good: dict[str, Recovery], what: str) -> None:
    assert made_good[what].restarts == 0


def test_a_hanging_engine_is_reported_on_the_console(made_good: dict[str, Recovery]) -> None:
    assert made_good["engine hangs"]
    console = named("amber.1").host.file("/var/log/vllmd/amber.1.log").content_string
    assert "it no longer answered /health, so the watchdog killed it" in console


def test_a_full_cache_disk_is_emptied_at_the_next_boot(made_good: dict[str, Recovery]) -> None:
    found = made_good["cache disk full"]
    assert found.restarts == 1
    assert "has not been healthy for" in found.journal
    assert int(named("birch").inside("df --output=avail -k /var/lib/vllmd/disk | tail -n 1")) > 256 * 1024
