# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl runtimes update``: replace replicas that are not as they should be, one at a time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import USAGE, CtlError
from ..options import Ids, Output, changes
from ..output import Format, emit, say


@changes
def update(
    play: Play,
    ids: Ids = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what did not serve before.")] = False,
    allow_outage: Annotated[
        bool, typer.Option("--allow-outage", help="Go on where no other replica of the runtime serves meanwhile.")
    ] = False,
    drain_timeout: Annotated[
        int | None, typer.Option("--drain-timeout", metavar="SECONDS", help="How long requests get to end, 300.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Replace replicas whose image or configuration changed, one at a time; roll back one that does not serve then."""
    from ..ansible import become_root, run
    from ..fleet import describe
    from ..lock import exclusive

    if drain_timeout is not None and drain_timeout < 0:
        raise CtlError(f"--drain-timeout is {drain_timeout}; expected 0 seconds or more", USAGE)
    become_root(play.inventory)
    with exclusive(play.inventory, " ".join(["runtimes update", *(ids or [])])):
        fleet = describe(play)
        variables: dict[str, Any] = fleet.placements()
        if ids:
            chosen = fleet.select(ids)
            variables["vllmd_runtime_names"] = sorted({each.id for each in chosen} | {each.runtime for each in chosen})
        variables |= {"vllmd_update_retry": True} if retry else {}
        variables |= {"vllmd_update_allow_outage": True} if allow_outage else {}
        variables |= {} if drain_timeout is None else {"vllmd_drain_timeout": drain_timeout}
        outcome = run(play, ["update"], "runtimes update", **variables)
    replicas = [
        {"host": host, **each} for host, data in outcome.data().items() for each in data.get("vllmd_update", [])
    ]
    if output is not Format.TABLE:
        emit(output, {**outcome.summary(), "replicas": replicas})
    due = [{**each, "id": each["name"], "why": ", ".join(each["reasons"])} for each in replicas if each["reasons"]]
    if output is Format.TABLE and (due or outcome.ok()):
        emit(output, due, ("id", "host", "why"), "every replica that runs is as it should be")
    for each in replicas:
        if each["held"]:
            say(f"{each['name']} on {each['host']} is kept as it was: {each['held']}")
    # The last one says how it ended; before it stands what was rolled back for.
    outcome.failures = outcome.failures[-1:]
    outcome.check()
    if play.check:
        say("nothing was changed: this was a check")
    elif due:
        say("all of them were replaced, and serve")
