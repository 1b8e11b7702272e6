# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is registered of a node, and where: one ConfigMap for each node, named as the node, in a namespace of its own.

Bootstrap tokens and nodes can neither read nor write it (kubernetes.io, "Using Node Authorization"), all members of a
control plane share it, and it outlives the token, of which it keeps the id only. Three texts of JSON are in it:

- ``identity``: what was given out, written by who lets the node join;
- ``use``: which key and which machine came with it, written by the approver before it approves;
- ``allowance``: what a person allows once although it is not what was given out.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

NAMESPACE = "vllmd-registration"
LABELS = {"app.kubernetes.io/managed-by": "vllmd", "app.kubernetes.io/component": "registration"}
_TOKEN_ID = re.compile(r"[a-z0-9]{6}")
#: As systemd has it (machine-id(5)); the kubelet reports the same text.
_MACHINE_ID = re.compile(r"[0-9a-f-]{1,64}")
_DNS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class RecordError(ValueError):
    """What is wrong with a record or with what was given for one: one line for a person."""


@dataclass(frozen=True)
class Identity:
    """What was given to a node.

    ``machine_id`` is that of its host; empty, the one that comes first is kept. ``addresses`` and ``names`` are all
    that its serving certificate may say besides the node's name. ``valid_until`` ends the time for the first request
    and is RFC 3339, as ``left`` is, which is empty while the node belongs to the cluster.
    """

    node: str
    machine_id: str = ""
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    token_id: str = ""
    valid_until: str = ""
    left: str = ""


@dataclass(frozen=True)
class Use:
    """Which key came with which token, on which machine; empty until then."""

    token_id: str = ""
    key: str = ""
    machine_id: str = ""
    request: str = ""
    time: str = ""


@dataclass(frozen=True)
class Allowance:
    """What a person allows once: a request of this user for these names and addresses. ``until`` is RFC 3339."""

    signer: str
    user: str
    until: str
    by: str
    why: str
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    request: str = ""


@dataclass(frozen=True)
class Record:
    """A node's record; without an identity it is only there for an allowance."""

    name: str
    identity: Identity | None = None
    use: Use = field(default_factory=Use)
    allowance: Allowance | None = None


def rfc3339(moment: datetime) -> str:
    """Return a moment (with a time zone) as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Return the moment that RFC 3339 text says. Raises RecordError."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise RecordError(f"{text[:40]!r} is no time; write it as 2030-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def address(text: str) -> str:
    """Return an IP address in its usual form. Raises RecordError."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise RecordError(f"address {text[:60]!r}: write an IP address, such as 10.0.0.21") from None


def checked(given: Identity) -> Identity:
    """Return the identity with names, addresses in their usual form, sorted, each once. Raises RecordError."""
    names = {name.strip().lower() for name in (*given.names, given.node) if name.strip()}
    wrong = sorted(name for name in names if not _DNS.fullmatch(name))
    if wrong:
        raise RecordError(f"name {wrong[0][:80]!r}: write a DNS name of a-z, 0-9, dash and dot, such as gpu-01")
    for what, text, pattern, expected in (
        ("machine id", given.machine_id, _MACHINE_ID, "what /etc/machine-id says"),
        ("token id", given.token_id, _TOKEN_ID, "the first 6 characters of the token, a-z and 0-9"),
    ):
        if text and not pattern.fullmatch(text):
            raise RecordError(f"{what} of node {given.node}: {text[:80]!r}; write {expected}")
    for text in (given.valid_until, given.left):
        if text:
            parse_time(text)
    addresses = sorted({address(each) for each in given.addresses})
    return replace(given, names=tuple(sorted(names)), addresses=tuple(addresses))


def read(config_map: Mapping[str, Any]) -> Record:
    """Return the record that a ConfigMap holds. Raises RecordError when somebody damaged it."""
    name = str(config_map["metadata"]["name"])
    data = config_map.get("data") or {}
    identity = _part(name, data, "identity", Identity)
    if identity is not None and identity.node != name:
        raise RecordError(f"record {name}: its identity is of node {identity.node}; register the node again")
    use, allowance = _part(name, data, "use", Use), _part(name, data, "allowance", Allowance)
    return Record(name, checked(identity) if identity else None, use or Use(), allowance)


def _part(record: str, data: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    text = data.get(key)
    if not text:
        return None
    known = {each.name for each in fields(kind)}
    try:
        found = json.loads(text)
        values = {name: found[name] for name in known & set(found)}
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise RecordError(f"record {record}: {key} cannot be read ({error}); register the node again") from None


def written(record: Record) -> dict[str, str]:
    """Return the data of the ConfigMap that holds the record."""
    parts: Iterable[tuple[str, Any]] = (
        ("identity", record.identity),
        ("use", record.use if record.use != Use() else None),
        ("allowance", record.allowance),
    )
    return {key: json.dumps(asdict(part), sort_keys=True) for key, part in parts if part is not None}


def config_map(record: Record) -> dict[str, Any]:
    """Return the ConfigMap of a record that is not there yet."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": record.name, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "data": written(record),
    }


def registered(before: Record | None, given: Identity) -> Record:
    """Return a node's record with what is given out now.

    A node that stays keeps the token that it came with: without a new one the old id and time stay. A token that was
    used stays used, also when the node has left meanwhile. Raises RecordError.
    """
    identity = checked(given)
    if before is None or before.identity is None:
        return Record(identity.node, identity, allowance=before.allowance if before else None)
    known = before.identity
    if identity.token_id and identity.token_id != known.token_id:
        return Record(identity.node, identity, allowance=before.allowance)
    is_same = not known.machine_id or not identity.machine_id or known.machine_id == identity.machine_id
    use = before.use if is_same else replace(before.use, machine_id="")
    kept = replace(
        identity,
        token_id=known.token_id,
        valid_until=identity.valid_until or known.valid_until,
        machine_id=identity.machine_id or known.machine_id,
    )
    return replace(before, identity=kept, use=use)


def struck_off(before: Record, now: datetime) -> Record:
    """Return the record of a node that left, which nothing is approved for any more."""
    if before.identity is None or before.identity.left:
        return before
    return replace(before, identity=replace(before.identity, left=rfc3339(now)), allowance=None)
