"""How far a guest has come that joins by itself, from what the API says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import guests
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.records import Identity, Record

from .conftest import MACHINE, NOW

IDENTITY = Identity("gpu-1", MACHINE, ("10.0.0.21",), ("gpu-1",), "abcdef", "2030-01-01T12:30:00Z")
RECORD = Record("gpu-1", IDENTITY)
ISSUED = {"conditions": [{"type": "Approved"}], "certificate": "LS0t"}
DENIED = {"conditions": [{"type": "Denied", "reason": "TokenUsed", "message": "it was used already"}]}


def node(status: str = "True", machine: str = MACHINE) -> dict[str, Any]:
    """A Node that is ready, or is not, on a machine."""
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": status}]
    return {"status": {"conditions": conditions, "nodeInfo": {"machineID": machine}}}


def request(status: dict[str, Any], token_id: str = IDENTITY.token_id) -> dict[str, Any]:
    """A request for a certificate that came with a token."""
    return {"spec": {"username": f"system:bootstrap:{token_id}"}, "status": status}


def left() -> Record:
    """The record of a node that left."""
    return replace(RECORD, identity=replace(IDENTITY, left="2030-01-01T11:00:00Z"))


@pytest.mark.parametrize(
    ("token_id", "seen", "expected"),
    [
        # Nobody knows it yet; or it was told, and has not come.
        ("", guests.Seen(None, None, []), guests.Guest(False, False, False, "")),
        ("abcdef", guests.Seen(None, RECORD, []), guests.Guest(False, True, False, "")),
        ("abcdef", guests.Seen(None, RECORD, [request({})]), guests.Guest(False, True, False, "")),
        # Another token than the one that is registered.
        ("ghijkl", guests.Seen(None, RECORD, []), guests.Guest(False, False, False, "")),
        # It joins, and has; it went away.
        ("abcdef", guests.Seen(None, RECORD, [request(ISSUED)]), guests.Guest(False, False, True, "")),
        ("abcdef", guests.Seen(node(), RECORD, [request(ISSUED)]), guests.Guest(True, False, True, "")),
        ("", guests.Seen(node(), RECORD, []), guests.Guest(True, False, False, "")),
        ("abcdef", guests.Seen(node("Unknown"), RECORD, [request(ISSUED)]), guests.Guest(False, False, True, "", True)),
        # It left.
        ("abcdef", guests.Seen(node(), left(), [request(ISSUED)]), guests.Guest(False, False, True, "")),
        ("abcdef", guests.Seen(None, left(), []), guests.Guest(False, False, False, "")),
        # It was denied; somebody else was.
        (
            "abcdef",
            guests.Seen(None, RECORD, [request(DENIED)]),
            guests.Guest(False, False, False, "TokenUsed: it was used already"),
        ),
        ("abcdef", guests.Seen(None, RECORD, [request(DENIED, "ghijkl")]), guests.Guest(False, True, False, "")),
        # Whoever comes later with a copy is denied, and the guest has its own.
        (
            "abcdef",
            guests.Seen(node(), RECORD, [request(ISSUED), request(DENIED)]),
            guests.Guest(True, False, True, ""),
        ),
    ],
)
def test_how_far_it_has_come(token_id: str, seen: guests.Seen, expected: guests.Guest) -> None:
    assert guests.look("gpu-1", MACHINE, token_id, seen, NOW) == expected


def test_its_time_is_over() -> None:
    late = NOW.replace(hour=13)
    assert not guests.look("gpu-1", MACHINE, "abcdef", guests.Seen(None, RECORD, []), late).is_expected


def test_another_machine_of_its_name_is_refused() -> None:
    with pytest.raises(NodeError, match="node gpu-1 is in the cluster already, on machine other"):
        guests.look("gpu-1", MACHINE, "abcdef", guests.Seen(node(machine="other"), RECORD, []), NOW)


def test_a_silent_node_is_one_that_was_here() -> None:
    seen = guests.Seen(node("Unknown", machine="other"), RECORD, [])
    assert not guests.look("gpu-1", MACHINE, "", seen, NOW).is_silent
    assert not guests.look("gpu-1", MACHINE, "", replace(seen, node=node("Unknown"), record=left()), NOW).is_silent
