"""What events of a playbook become: one line and an exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllmdctl.errors import FAILED, INTERRUPTED, REFUSED, UNREACHABLE, CtlError
from vllmdctl.outcome import Outcome


def outcome(tmp_path: Path, status: int, *events: dict[str, Any]) -> Outcome:
    """The end of a run with these events."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    ended = Outcome("apply", tmp_path / "log", path, status)
    ended.read_events()
    return ended


def result(status: str, host: str = "gpu-01", action: str = "command", **values: Any) -> dict[str, Any]:
    return {"event": "result", "status": status, "host": host, "task": "Start it", "action": action, "result": values}


@pytest.mark.parametrize(
    ("status", "events", "said", "exit_status"),
    [
        (2, [result("failed", msg="no\nroom")], "apply failed on gpu-01: Start it: no room; log ", FAILED),
        (2, [result("failed", msg="rc 1", stderr="x\nno such device\n")], "rc 1: no such device", FAILED),
        (
            2,
            [result("failed", msg="One or more items failed", results=[{}, {"failed": True, "msg": "the second"}])],
            "Start it: the second;",
            FAILED,
        ),
        (4, [result("unreachable", msg="timed out")], "cannot reach gpu-01: timed out", UNREACHABLE),
        (
            4,
            [result("unreachable", msg="All items completed", results=[{}, {"unreachable": True, "msg": "no route"}])],
            "cannot reach gpu-01: no route; log ",
            UNREACHABLE,
        ),
        (
            2,
            [result("unreachable", msg="timed out"), result("failed", "gpu-02", msg="x")],
            r"cannot reach gpu-01: timed out \(and 1 more\)",
            FAILED,
        ),
        (
            2,
            [
                result(
                    "failed", action="vllmd.platform.runtime_manifest", msg="r.yaml:1:1: a\nr.yaml:2:1: b", errors=[1]
                )
            ],
            "^r.yaml:1:1: a\nr.yaml:2:1: b$",
            REFUSED,
        ),
        (4, [], "apply failed: ansible-playbook ended with 4", REFUSED),
        (99, [], "apply failed", INTERRUPTED),
    ],
)
def test_a_failure_is_one_line(
    tmp_path: Path, status: int, events: list[dict[str, Any]], said: str, exit_status: int
) -> None:
    with pytest.raises(CtlError, match=said) as caught:
        outcome(tmp_path, status, *events).check()
    assert caught.value.status == exit_status


def test_what_is_ignored_is_no_failure_and_half_a_line_waits(tmp_path: Path) -> None:
    ended = outcome(tmp_path, 0, result("ignored", msg="x"), result("ok", changed=True))
    with ended.events.open("a") as stream:
        stream.write('{"event": "stats", "hosts": {}, ')
        stream.flush()
        ended.read_events()
        assert ended.published == {}
        stream.write('"published": {"gpu-01": {"a": 1}, "_run": {"b": 2}}}\nno json\n')
    ended.read_events()
    assert (ended.changed, ended.failures, ended.data()) == (1, [], {"gpu-01": {"a": 1}})
    ended.check()


def test_ansibles_own_error_is_passed_on(tmp_path: Path) -> None:
    ended = outcome(tmp_path, 1)
    ended.said = ["[WARNING]: x", "[ERROR]: the inventory is broken", "usage"]
    assert ended.reason().startswith("apply failed: the inventory is broken; log ")
