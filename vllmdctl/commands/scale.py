# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl runtimes scale``: more or fewer replicas, by hand or by their load."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import USAGE, CtlError
from ..options import Output, changes, complete_id
from ..output import Format, emit, say

_COLUMNS = ("id", "host", "state", "health", "uptime", "model", "url")


@changes
def scale(
    play: Play,
    runtime: Annotated[
        str | None,
        typer.Argument(metavar="[RUNTIME_ID]", help="A runtime's name, or its beginning.", autocompletion=complete_id),
    ] = None,
    replicas: Annotated[
        int | None, typer.Argument(metavar="[REPLICAS]", help="How many, within its minReplicas and maxReplicas.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Run as many replicas of a runtime as said; without arguments, as many of each as their load asks for.

    Hosts and places are planned; nothing that runs is restarted. What is not wanted any more is drained and removed.
    """
    from ..ansible import become_root, run
    from ..fleet import describe
    from ..lock import exclusive

    if (runtime is None) != (replicas is None):
        raise CtlError(
            "expected a runtime and a number, such as 'runtimes scale smollm2 2', or neither for the rule", USAGE
        )
    become_root(play.inventory)
    variables: dict[str, Any] = {}
    with exclusive(play.inventory, " ".join(["runtimes scale", *([runtime, str(replicas)] if runtime else [])])):
        if runtime is not None:
            fleet = describe(play)
            # One without a replica is on no host.
            name = runtime if runtime in fleet.sources else fleet.find(runtime)[0].runtime
            variables = {"vllmd_plan_replicas": {name: replicas}, "vllmd_scale_by_rule": False}
        outcome = run(play, ["scale"], "runtimes scale", **variables)
        decided = outcome.published.get("_run", {}).get("vllmd_scale") or {}
        if output is not Format.TABLE:
            emit(output, outcome.summary() | {"scale": decided})
        outcome.check()
        if play.check:
            say("nothing was changed: this was a check")
        elif output is Format.TABLE and decided.get("scaled"):
            rows = [each.row() for each in describe(play).replicas if each.runtime in decided["scaled"]]
            emit(output, rows, _COLUMNS)
