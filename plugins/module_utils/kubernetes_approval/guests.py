# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How far a virtual machine has come that joins a cluster by itself, from what the cluster's API says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..kubernetes.errors import NodeError
from .records import Record, parse_time
from .requests import TOKEN_USER


@dataclass(frozen=True)
class Guest:
    """What the cluster knows of a guest.

    ``is_member``: its node is ready, and has not left. ``is_expected``: the token that it has may still serve.
    ``has_used``: a certificate was issued for that token. ``denied``: why one was not, empty when nobody said no.
    ``is_silent``: its node is there, on its machine, and is not ready just now.
    """

    is_member: bool
    is_expected: bool
    has_used: bool
    denied: str
    is_silent: bool = False


@dataclass(frozen=True)
class Seen:
    """What the API says: the node of the guest's name, what is registered of it, and all requests for certificates."""

    node: Mapping[str, Any] | None
    record: Record | None
    requests: Sequence[Mapping[str, Any]]


def look(name: str, machine_id: str, token_id: str, seen: Seen, now: datetime) -> Guest:
    """Return how far the guest ``name`` has come that was given the token ``token_id`` (empty: none).

    Raises NodeError when a ready node of that name is another machine, RecordError when the record is damaged.
    """
    status = (seen.node or {}).get("status", {})
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])
    machine = status.get("nodeInfo", {}).get("machineID", "")
    if is_ready and machine and machine != machine_id:
        raise NodeError(
            f"node {name} is in the cluster already, on machine {machine}; the guest is machine {machine_id}. Give it "
            "another spec.kubernetes.node_name, or let that node leave"
        )
    identity = seen.record.identity if seen.record else None
    has_used, denied = _outcome(seen.requests, token_id) if token_id else (False, "")
    is_registered = identity is not None and not identity.left
    is_expected = (
        bool(token_id)
        and identity is not None
        and is_registered
        and identity.token_id == token_id
        and not has_used
        and not denied
        and (not identity.valid_until or now < parse_time(identity.valid_until))
    )
    is_silent = is_registered and not is_ready and machine == machine_id
    return Guest(is_ready and is_registered, is_expected, has_used, denied, is_silent)


def _outcome(requests: Sequence[Mapping[str, Any]], token_id: str) -> tuple[bool, str]:
    """Return whether a certificate was issued for the token, and why one was not; a denial counts while none was."""
    ours = [each["status"] for each in requests if each["spec"].get("username") == TOKEN_USER + token_id]
    if any(status.get("certificate") for status in ours):
        return True, ""
    said = [
        f"{condition.get('reason')}: {condition.get('message')}"
        for status in ours
        for condition in status.get("conditions") or []
        if condition.get("type") == "Denied"
    ]
    return False, said[-1] if said else ""
