# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl certificates``: how long the cluster's certificates count, and new ones."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import FAILED, USAGE, CtlError
from ..options import Output, changes, reads
from ..output import Format, emit, say

app = typer.Typer(rich_markup_mode=None)

_COLUMNS = ("host", "name", "days_left", "state", "renewal", "expires", "path")
#: A table's colours by what is to be done about a certificate.
_COLOURS = {"ok": "green", "due": "yellow", "early": "yellow", "expired": "bold red", "unreadable": "bold red"}


class Authority(StrEnum):
    """The authorities that kubeadm makes."""

    KUBERNETES = "kubernetes"
    ETCD = "etcd"
    FRONT_PROXY = "front-proxy"


class Position(StrEnum):
    """How far an authority's rotation goes."""

    OLD = "old"
    TRUST = "trust"
    SWAP = "swap"
    NEW = "new"


@app.command("list")
@reads
def list_(
    play: Play,
    days: Annotated[
        float | None, typer.Option("--days", min=0, help="Only those that have at most as many days left.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the certificates of the control plane's hosts and the nodes, those first that end first."""
    from ..ansible import run

    outcome = run(play, ["certificates"], "certificates list", quiet=True)
    rows = [
        {"host": host, **each}
        for host, published in outcome.data().items()
        for each in published.get("vllmd_certificates", {}).get("certificates", [])
        if days is None or each["days_left"] is None or each["days_left"] <= days
    ]
    rows.sort(key=lambda row: (row["days_left"] is not None, row["days_left"] or 0, row["host"], row["path"]))
    emit(output, rows, _COLUMNS, "no certificate was found", style=lambda row: _COLOURS.get(str(row["state"]), ""))
    for host, published in outcome.data().items():
        for part, record in published.get("vllmd_certificates", {}).get("rotation", {}).items():
            say(f"{host}: a rotation of authority {record['authority']} is under way, {part} at '{record['position']}'")
    outcome.check()
    bad = [row for row in rows if row["state"] in ("expired", "unreadable")]
    if bad:
        raise CtlError(f"{len(bad)} of {len(rows)} certificates have expired or cannot be read", FAILED)


@app.command("rotate")
@changes
def rotate(
    play: Play,
    everything: Annotated[bool, typer.Option("--all", help="Renew what is not due, too.")] = False,
    authority: Annotated[
        Authority | None, typer.Option("--authority", help="Replace this authority, and all that it issued.")
    ] = None,
    until: Annotated[
        Position | None,
        typer.Option(
            "--until",
            help="trust: both are believed, swap: the new one issues, new: the old one is dropped; old goes back.",
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Renew the control plane's certificates that are due, or replace an authority; goes on after interruptions."""
    from ..ansible import become_root, run
    from ..lock import exclusive

    if until and not authority:
        raise CtlError("--until says how far an authority's rotation goes; name it with --authority", USAGE)
    variables: dict[str, Any] = {"rotate_everything": everything} if everything else {}
    variables |= {"rotate_authority": str(authority)} if authority else {}
    variables |= {"rotate_until": str(until)} if until else {}
    become_root(play.inventory)
    with exclusive(play.inventory, "certificates rotate"):
        outcome = run(play, ["rotate"], "certificates rotate", **variables)
    done = {host: published.get("vllmd_rotated", {}) for host, published in outcome.data().items()}
    if output is not Format.TABLE:
        emit(output, outcome.summary() | {"rotated": done})
    outcome.check()
    if play.check:
        say("nothing was changed: this was a check")
    elif output is Format.TABLE:
        rows = [{"host": host, "renewed": path} for host, each in done.items() for path in each.get("renewed", [])]
        emit(output, rows, ("host", "renewed"), "no certificate was due" if not authority else "")
