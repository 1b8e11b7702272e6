# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl apply``: manifests in, serving runtimes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import places
from ..ansible_play import Play
from ..errors import FAILED
from ..options import Output, changes
from ..output import Format, emit, say
from .plan import check_fits, plan_first


@changes
def apply(
    play: Play,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...", help="Manifests; without one, those applied before are brought about again."
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Bring about what Runtime manifests say: check them, build the image they need, start, wait until they serve."""
    from .. import manifests
    from ..ansible import become_root, run
    from ..fleet import describe
    from ..lock import exclusive

    become_root(play.inventory)
    new = manifests.read(files or [])
    names = {each.name for each in new}
    with exclusive(play.inventory, "apply"):
        fleet = describe(play)
        wanted = manifests.union(fleet.sources, new)
        # All of them together, before anything is written: two may want one name, or one GPU.
        profiles = manifests.check_together(wanted)
        variables: dict[str, Any] = {"vllmd_runtime_manifests": wanted}
        if new:
            _placements, unfit = plan_first(replace(play, check=True), variables, quiet=True)
            check_fits({name: line for name, line in unfit.items() if name in names})
        if not play.check:
            variables = {}
            if placed := manifests.place(new, places.manifests_directory(play.inventory), fleet.sources):
                manifests.check_seen(play.inventory, placed, describe(play).sources)
        asked = play
        play, unfit = plan_first(play, variables)
        if not any("runtime_assembler_profile" in each for each in play.extra):
            for other in profiles[:-1]:  # one run builds one image
                run(asked, ["generate"], "runtimes generate", runtime_assembler_profile=other).check()
            if profiles:
                variables["runtime_assembler_profile"] = profiles[-1]
        outcome = run(play, ["apply"], "apply", **variables)
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()
    if play.check:
        say("nothing was changed: this was a check")
        return
    fleet = describe(asked)
    rows = [each.row() for each in fleet.replicas if not names or each.runtime in names]
    if output is Format.TABLE:
        emit(output, rows, ("id", "host", "state", "model", "url"))
    check_fits(unfit)
    if output is Format.TABLE:
        say("ask it: vllmdctl infer '...'")
    if fleet.unreachable:
        raise typer.Exit(FAILED)
