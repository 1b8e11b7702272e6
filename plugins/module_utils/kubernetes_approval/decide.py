# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether a request for a node's certificate is approved: only when it is what was registered of the node.

What proves what. A first request comes with a bootstrap token: it was given to one node, for minutes, and serves for
one key, so that a copy of it is worth nothing once the node has its certificate. A later request comes with that
certificate. The machine id is what the kubelet says of itself; it tells mistakes and clones, not a node that lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from .records import Identity, Record, RecordError, Use, parse_time, rfc3339
from .requests import CLIENT, NODE_GROUP, NODE_USER, SERVING, TOKEN_GROUP, Asked, Request, UnreadableError, asked

_SIGNING, _ENCRYPTION = "digital signature", "key encipherment"
_PURPOSE = {CLIENT: "client auth", SERVING: "server auth"}
#: What no person can allow: it would not be a node's certificate at all; `never` says which it is.
_NEVER = frozenset({"UnreadableRequest", "WrongSubject", "WrongUsages"})


class Verdict(Enum):
    """What becomes of a request. WAIT looks at it again; PASS never touches it."""

    APPROVE = "approved"
    DENY = "denied"
    WAIT = "waits"
    PASS = "passed over"  # noqa: S105 -- no password


@dataclass(frozen=True)
class NodeState:
    """The Node of a name: the machine id that its kubelet reported (empty until it did), and whether it is ready."""

    machine_id: str = ""
    is_ready: bool = False


@dataclass(frozen=True)
class Decision:
    """A verdict, its reason as one word and as one line, the node, and the node's record as it is to be kept first."""

    verdict: Verdict
    reason: str
    message: str
    node: str = ""
    record: Record | None = None
    asked: Asked | None = None


class _Denied(Exception):
    """The verdict of a rule that does not hold."""

    def __init__(self, reason: str, message: str, record: Record | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.record = reason, message, record


class _Waits(Exception):
    """The request cannot be judged yet."""


@dataclass(frozen=True)
class _Case:
    """All that a request is judged by."""

    request: Request
    asked: Asked
    node: str
    records: Mapping[str, Record]
    state: NodeState | None
    now: datetime
    wait_seconds: float


def node_name(request: Request) -> str:
    """Return the name of the node that is asked for, empty when the request does not say or cannot be read."""
    try:
        name = asked(request).common_name
    except UnreadableError:
        return ""
    return name.removeprefix(NODE_USER) if name.startswith(NODE_USER) else ""


def never(request: Request) -> str:
    """Return why nobody can allow the request, empty when a person can."""
    try:
        _is_a_nodes(request, asked(request))
    except UnreadableError as error:
        return f"the request cannot be read: {error}"
    except _Denied as denied:
        return denied.message if denied.reason in _NEVER else ""
    return ""


def decide(
    request: Request, records: Mapping[str, Record], node: NodeState | None, now: datetime, wait_seconds: float
) -> Decision:
    """Return what becomes of ``request``.

    ``records`` are all there are, by node's name; ``node`` is the Node that the request is about, None when there is
    none. A request that needs the Node's own report waits ``wait_seconds`` for it.
    """
    if not request.is_ours or request.is_decided:
        return Decision(Verdict.PASS, "NotOurs", f"request {request.name} is of {request.user} to {request.signer}")
    try:
        content = asked(request)
    except UnreadableError as error:
        return Decision(Verdict.DENY, "UnreadableRequest", f"the request cannot be read: {error}")
    name = content.common_name.removeprefix(NODE_USER)
    record = records.get(name)
    try:
        _is_a_nodes(request, content)
        case = _Case(request, content, name, records, node, now, wait_seconds)
        kept = _first(case) if request.token_id else _later(case)
    except _Waits as reason:
        return Decision(Verdict.WAIT, "Waits", str(reason), name, asked=content)
    except _Denied as denied:
        allowed = None if denied.reason in _NEVER else _excepted(request, content, record, now)
        if allowed is None:
            return Decision(Verdict.DENY, denied.reason, denied.message, name, asked=content)
        by_hand = record.allowance if record else None
        message = f"allowed by {by_hand.by}: {by_hand.why}; else {denied.reason}: {denied.message}" if by_hand else ""
        return Decision(Verdict.APPROVE, "AllowedByPerson", message, name, allowed, content)
    what = "serving" if request.signer == SERVING else "client"
    message = f"the {what} certificate is what was registered of node {name}"
    return Decision(Verdict.APPROVE, "IdentityVerified", message, name, kept if kept != record else None, content)


def _is_a_nodes(request: Request, content: Asked) -> None:
    """Hold to what every kubelet's request is like (kubernetes.io, "Certificates and Certificate Signing Requests")."""
    if not content.common_name.startswith(NODE_USER) or content.common_name == NODE_USER:
        raise _Denied("WrongSubject", f"common name {content.common_name[:100]!r} is no node's; it is {NODE_USER}NAME")
    if content.organizations != (NODE_GROUP,) or content.has_other_subject:
        shown = ", ".join(content.organizations)[:100] or "none"
        raise _Denied("WrongSubject", f"organization {shown}; a node's certificate has {NODE_GROUP} and nothing else")
    purpose = _PURPOSE[request.signer]
    wanted = {_SIGNING, purpose}
    # RSA keys also encrypt; since 1.27 kubelets with other keys do not ask for it.
    if set(request.usages) not in (wanted, {*wanted, _ENCRYPTION}):
        shown = ", ".join(sorted(request.usages))[:200] or "none"
        raise _Denied("WrongUsages", f"usages {shown}; expected {_SIGNING}, {purpose} and perhaps {_ENCRYPTION}")
    if request.signer == CLIENT and (content.names or content.addresses or content.other):
        shown = ", ".join((*content.names, *content.addresses, *content.other))[:200]
        raise _Denied("ForeignNames", f"a client certificate has no alternative names, and this asks for {shown}")


def _first(case: _Case) -> Record:
    """Judge a request that comes with a bootstrap token; return the node's record with its use."""
    request, content, name, node = case.request, case.asked, case.node, case.state
    token = request.token_id
    if request.signer != CLIENT:
        raise _Denied("WrongSigner", f"bootstrap token {token} only serves for a client certificate")
    if TOKEN_GROUP not in request.groups:
        raise _Denied("WrongRequester", f"{request.user} is not in group {TOKEN_GROUP}")
    identities = {key: each.identity for key, each in case.records.items() if each.identity}
    of_token = {key: each for key, each in identities.items() if each.token_id == token}
    if not of_token:
        raise _Denied("UnknownToken", f"bootstrap token {token} was given to no node; join by playbooks/join.yml")
    identity = of_token.get(name)
    if identity is None:
        raise _Denied("OtherNode", f"bootstrap token {token} was given to {', '.join(sorted(of_token))}, not to {name}")
    record = case.records[name]
    _is_on_record(identity, name)
    if identity.valid_until and case.now > _moment(identity.valid_until):
        raise _Denied("RegistrationExpired", f"node {name} had to ask until {identity.valid_until}; join it again")
    has_used = record.use.token_id == token and bool(record.use.key)
    if has_used and record.use.key != content.key:
        raise _Denied("TokenUsed", f"bootstrap token {token} was used for node {name} on {record.use.time} already")
    if node is not None:
        machine = identity.machine_id
        if machine and node.machine_id and node.machine_id != machine:
            raise _Denied("NameTaken", f"node {name} is there already, on machine {node.machine_id}, not on {machine}")
        if node.is_ready and not has_used:
            raise _Denied("NameTaken", f"node {name} is there already, and ready; let it leave first")
    if has_used:
        return record
    return replace(record, use=Use(token, content.key, record.use.machine_id, request.name, rfc3339(case.now)))


def _later(case: _Case) -> Record:
    """Judge a request that comes with a node's own certificate; return the node's record with its machine."""
    request, content, name, node = case.request, case.asked, case.node, case.state
    record = case.records.get(name)
    if NODE_GROUP not in request.groups:
        raise _Denied("WrongRequester", f"{request.user} is not in group {NODE_GROUP}")
    if request.user != content.common_name:
        raise _Denied("OtherNode", f"{request.user} asks for a certificate of {content.common_name}")
    if record is None or record.identity is None:
        raise _Denied("UnknownNode", f"node {name} is not registered; run playbooks/join.yml for it")
    identity = record.identity
    _is_on_record(identity, name)
    if request.signer == SERVING:
        _names_are_ours(content, identity, name)
    if node is None or not node.machine_id:
        told = "there is no Node of that name" if node is None else "its Node does not say which machine it is"
        if request.created and case.now - _moment(request.created) > timedelta(seconds=case.wait_seconds):
            raise _Denied("UnknownMachine", f"node {name}: {told}")
        raise _Waits(f"node {name}: {told} yet")
    machine = identity.machine_id or record.use.machine_id
    if machine and machine != node.machine_id:
        raise _Denied("WrongMachine", f"node {name} is registered on machine {machine}, and runs on {node.machine_id}")
    return record if machine else replace(record, use=replace(record.use, machine_id=node.machine_id))


def _names_are_ours(content: Asked, identity: Identity, name: str) -> None:
    foreign = sorted({*content.names} - {*identity.names}) + sorted({*content.addresses} - {*identity.addresses})
    foreign += content.other
    if foreign:
        ours = ", ".join((*identity.names, *identity.addresses))
        raise _Denied("ForeignNames", f"{', '.join(foreign)[:200]}: not given to node {name}, which has {ours}")
    if not content.names and not content.addresses:
        raise _Denied("ForeignNames", f"node {name} asks for a serving certificate without any name or address")


def _is_on_record(identity: Identity, name: str) -> None:
    if identity.left:
        raise _Denied("NodeLeft", f"node {name} left on {identity.left}; join it again by playbooks/join.yml")


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except RecordError as error:
        raise _Denied("UnreadableRecord", str(error)) from None


def _excepted(request: Request, content: Asked, record: Record | None, now: datetime) -> Record | None:
    """Return the record without its allowance when a person allowed just this, and the time for it is not over."""
    allowed = record.allowance if record else None
    if record is None or allowed is None or content.other:
        return None
    same = (allowed.signer, allowed.user) == (request.signer, request.user)
    if not same or set(allowed.names) != set(content.names) or set(allowed.addresses) != set(content.addresses):
        return None
    try:
        is_over = now > parse_time(allowed.until)
    except RecordError:
        return None
    return None if is_over else replace(record, allowance=None)
