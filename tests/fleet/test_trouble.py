"""A full partition, and a host that vanishes during a change: one line each, nothing lost, the next run goes on."""

from __future__ import annotations

from vllmdctl.errors import FAILED, UNREACHABLE
from vllmdctl.outcome import Outcome

from .conftest import Fleet

_DIRECTORY = "/etc/vllmd/hypervisor"


def environment_files(fleet: Fleet) -> dict[str, str]:
    return {host: fleet.inside(host, "sh", "-c", f"cat {_DIRECTORY}/*.env") for host in fleet.names}


def ended(fleet: Fleet, status: int) -> Outcome:
    """How vllmdctl tells the end of the last run."""
    events = fleet.directory / "events.jsonl"
    told = Outcome("apply", fleet.directory / "log", events, status=status)
    told.read_events()
    events.unlink()
    return told


def test_a_full_disk_and_a_host_that_vanishes(fleet: Fleet) -> None:
    fleet.publish("000000000001")
    fleet.manifest["spec"]["scaling"] = {"minReplicas": 2, "maxReplicas": 2}
    fleet.inside("a", "mkdir", "-p", _DIRECTORY)
    fleet.inside("a", "mount", "-t", "tmpfs", "-o", "size=32k,mode=755", "none", _DIRECTORY)
    fleet.do("plan")
    fleet.do("start")
    ended(fleet, 0)
    running, plan, before = fleet.running(), fleet.plan_file.read_text(), environment_files(fleet)
    assert running == {"stub": "a", "stub.1": "b"}

    # Both are to get another environment file: one disk is full, the other host is gone when its turn comes.
    other = {"vllmd_kernel_arguments": "stub.other"}
    fleet.inside("a", "sh", "-c", f"head -c 1M /dev/zero >{_DIRECTORY}/ballast", check=False)
    fleet.gone("b").write_text("25")
    fleet.do("start", status=4, **other)
    told = ended(fleet, 4)
    assert {each.host: each.unreachable for each in told.failures} == {"a": False, "b": True}
    assert "No space left on device" in next(each.message for each in told.failures if each.host == "a")
    assert (told.exit_status(), told.reason().count("\n")) == (FAILED, 0)
    assert environment_files(fleet) == before
    assert fleet.inside("a", "ls", "-A", _DIRECTORY).split() == ["ballast", "stub.env"]
    assert fleet.running() == running
    assert fleet.plan_file.read_text() == plan

    # There is room again: that host goes on. The other one is still away, and is named.
    fleet.inside("a", "rm", f"{_DIRECTORY}/ballast")
    fleet.do("start", status=4, **other)
    told = ended(fleet, 4)
    assert told.exit_status() == UNREACHABLE
    assert told.reason().startswith("cannot reach b: Task failed: connect to host b: No route to host")
    after = environment_files(fleet)
    assert ("stub.other" in after["a"], after["b"]) == (True, before["b"])
    fleet.gone("b").unlink()
    fleet.do("start", **other)
    assert "stub.other" in environment_files(fleet)["b"]
    assert fleet.running() == running
