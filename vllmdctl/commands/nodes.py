# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl nodes``: the nodes of a Kubernetes cluster, what is registered of them, who joins and leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import USAGE, CtlError, nearest
from ..options import Output, changes, reads
from ..output import Format, agreed, emit, say

app = typer.Typer(rich_markup_mode=None)

_GROUP = "kubernetes_nodes"
_NODE_USER, _TOKEN_USER = "system:node:", "system:bootstrap:"
_SIGNERS = ("kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving")
Hosts = Annotated[list[str], typer.Argument(metavar="HOST...", help=f"Hosts of the inventory's group {_GROUP}.")]


def rows(
    nodes: list[dict[str, Any]], records: list[dict[str, Any]], requests: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each node that the cluster has or that is registered, and for requests of others that failed.

    All three are the API's own objects: Nodes, ConfigMaps of records, CertificateSigningRequests.
    """
    there = {each["metadata"]["name"]: each for each in nodes}
    known = {each["metadata"]["name"]: each.get("data") or {} for each in records}
    open_: dict[str, dict[str, Any]] = {}
    for each in sorted(requests, key=lambda one: str(one["metadata"].get("creationTimestamp"))):
        name = _asks_for(each, known)
        if name:
            open_[name] = each  # the last one counts
    return [
        {
            "node": name,
            "state": _state(there.get(name)),
            "version": there[name]["status"]["nodeInfo"]["kubeletVersion"] if name in there else None,
            "registered": _registered(known.get(name)),
            **_request(open_.get(name)),
        }
        for name in sorted({*there, *known, *open_})
    ]


def _state(node: dict[str, Any] | None) -> str:
    if node is None:
        return "absent"
    conditions = node.get("status", {}).get("conditions") or []
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    cordoned = ", cordoned" if node.get("spec", {}).get("unschedulable") else ""
    return ("ready" if is_ready else "not ready") + cordoned


def _registered(data: dict[str, str] | None) -> str:
    """Return what the record says: no, yes, or since when the node has left."""
    try:
        identity = json.loads((data or {}).get("identity") or "null")
        if not identity:
            return "no"
        return f"left {identity['left']}" if identity.get("left") else "yes"
    except (AttributeError, ValueError):
        return "damaged"


def _asks_for(request: dict[str, Any], known: dict[str, dict[str, str]]) -> str:
    """Return the node that a request is about, by who asks; empty when it is no node's."""
    user = str(request["spec"].get("username", ""))
    if request["spec"].get("signerName") not in _SIGNERS:
        return ""
    if user.startswith(_NODE_USER):
        return user.removeprefix(_NODE_USER)
    if not user.startswith(_TOKEN_USER):
        return ""
    token = user.removeprefix(_TOKEN_USER)
    given = [name for name, data in known.items() if f'"token_id": "{token}"' in data.get("identity", "")]
    return given[0] if given else f"(token {token})"


def _request(request: dict[str, Any] | None) -> dict[str, Any]:
    """Return what became of a node's last request: nothing to say of one that was approved."""
    conditions = (request or {}).get("status", {}).get("conditions") or []
    decided = {each["type"]: each for each in conditions}
    if request is None or "Approved" in decided:
        return {"request": None, "verdict": None}
    denied = decided.get("Denied")
    verdict = f"denied: {denied.get('message') or denied.get('reason')}" if denied else "waits"
    return {"request": request["metadata"]["name"], "verdict": verdict}


def _named(play: Play, hosts: list[str]) -> None:
    """Check that the inventory has these hosts as nodes. Raises CtlError."""
    from .hosts import inventory_hosts

    known = [each["host"] for each in inventory_hosts(play) if _GROUP in each["groups"]]
    for host in hosts:
        if host not in known:
            raise CtlError(f"no host {host!r} in group {_GROUP}{nearest(host, known)}", USAGE)


@app.command("list")
@reads
def list_(play: Play, output: Output = Format.TABLE) -> None:
    """Show the cluster's nodes, what is registered of them, and what they ask for that was not approved."""
    from ..ansible import run

    outcome = run(play, ["nodes"], "nodes list", quiet=True)
    outcome.check()
    found = outcome.published.get("_run", {})
    listed = rows(*(found.get(f"vllmd_{name}") or [] for name in ("nodes", "records", "requests")))
    emit(output, listed, ("node", "state", "version", "registered", "request", "verdict"), "the cluster has no node")


@app.command("join")
@changes
def join(play: Play, hosts: Hosts, output: Output = Format.TABLE) -> None:
    """Make hosts nodes of their cluster, and register what they are given; no other host is touched."""
    from ..ansible import run
    from ..lock import exclusive

    _named(play, hosts)
    with exclusive(play.inventory, "nodes join"):
        outcome = run(replace(play, limit=",".join(hosts)), ["join"], "nodes join")
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()
    if play.check:
        say("nothing was changed: this was a check")


@app.command("leave")
@changes
def leave(
    play: Play,
    hosts: Hosts,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Take hosts out of their cluster, one after the other: drained, deleted, struck off, reset."""
    from ..ansible import run
    from ..lock import exclusive

    _named(play, hosts)
    if not yes and not play.check and not agreed(f"Drain and delete {', '.join(hosts)}?"):
        raise CtlError("nothing was changed")
    with exclusive(play.inventory, "nodes leave"):
        outcome = run(play, ["leave"], "nodes leave", leave_hosts=",".join(hosts))
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()
    if play.check:
        say("nothing was changed: this was a check")


@app.command("approve")
@changes
def approve(
    play: Play,
    request: Annotated[str, typer.Argument(help="A request that 'nodes list' shows.")],
    why: Annotated[str, typer.Option("--why", help="Why it is right although it is not what was registered.")],
    minutes: Annotated[
        int, typer.Option("--minutes", min=1, max=1440, help="How long a denied one may come again.")
    ] = 60,
    output: Output = Format.TABLE,
) -> None:
    """Approve a node's request that waits, or allow once what was denied. Your name and the reason are kept."""
    import getpass
    import socket

    from ..ansible import run
    from ..lock import exclusive

    if not why.strip():
        raise CtlError("--why is empty; say why the request is right although it is not what was registered", USAGE)
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    given = {"approve_request": request, "approve_by": by, "approve_why": why.strip(), "approve_minutes": minutes}
    with exclusive(play.inventory, "nodes approve"):
        outcome = run(play, ["approve"], "nodes approve", quiet=True, **given)
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()
    say(str(outcome.published.get("_run", {}).get("vllmd_approved", "")))
    if play.check:
        say("nothing was changed: this was a check")
