# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl plan``: which replica would run where, and what that changes."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import CtlError
from ..options import Output, reads
from ..output import Format, emit, say


class Share(StrEnum):
    """How a resource is given out."""

    SPLIT = "split"
    DEMAND = "demand"


Cpu = Annotated[
    Share | None, typer.Option("--cpu", help="split: share out all CPUs of a host; demand: what manifests ask for.")
]
Memory = Annotated[Share | None, typer.Option("--memory", help="The same for memory.")]
Accelerators = Annotated[
    Share | None, typer.Option("--accelerators", help="split: replicas up to maxReplicas while accelerators are free.")
]


def shares(cpu: Share | None, memory: Share | None, accelerators: Share | None) -> dict[str, Any]:
    """Return the variables of playbook plan for what was said; the inventory decides the rest.

    Who says how CPUs or memory are shared means what runs, too: the hosts are divided again.
    """
    said = {"vllmd_plan_cpu": cpu, "vllmd_plan_memory": memory, "vllmd_plan_accelerators": accelerators}
    given: dict[str, Any] = {name: str(value) for name, value in said.items() if value is not None}
    return given | ({"vllmd_plan_resize": True} if cpu or memory else {})


def plan_first(play: Play, variables: dict[str, Any], *, quiet: bool = False) -> tuple[Play, dict[str, str]]:
    """Plan, write the plan unless this is a check, and return the play that brings it about, and what does not fit.

    The latter by runtime, one line each. Raises CtlError when nothing could be planned.
    """
    import json

    from .. import places
    from ..ansible import run

    outcome = run(play, ["plan"], "plan", quiet=quiet, **variables)
    planned = outcome.published.get("_run", {}).get("vllmd_plan", {}).get("plan")
    if planned is None:
        outcome.check()
    elif outcome.unreachable():
        # They keep what they run; the others need not wait for them. What follows says so again, and ends with it.
        say(f"warning: can't be reached, so left as they are: {', '.join(outcome.unreachable())}")
    # By a file: the placements of many hosts are longer than a command line may be, and a check writes no plan.
    path = places.state_directory() / "placements.json"
    places.write_file(path, json.dumps({"vllmd_placements": planned["placements"]}))
    return replace(play, extra=(*play.extra, f"@{path}")), misfits(planned)


def check_fits(unfit: dict[str, str]) -> None:
    """Raise CtlError when something does not fit, one line for each."""
    if unfit:
        raise CtlError("\n".join(line for _name, line in sorted(unfit.items())))


def misfits(planned: dict[str, Any]) -> dict[str, str]:
    """Return why runtimes of a plan do not fit and the nearest that would, by name."""
    found = {}
    for each in planned["unplaced"]:
        nearest = (each.get("nearest") or {}).get("text")
        found[each["runtime"]] = f"{each['runtime']} does not fit: {each['reason']}{f'; {nearest}' if nearest else ''}"
    return found


@reads
def plan(
    play: Play,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Manifests as if they were applied, too.")
    ] = None,
    cpu: Cpu = None,
    memory: Memory = None,
    accelerators: Accelerators = None,
    output: Output = Format.TABLE,
) -> None:
    """Say which replica would run where and what that changes, with the reasons. Writes nothing."""
    from .. import manifests
    from ..ansible import become_root, run
    from ..fleet import describe

    become_root(play.inventory)
    variables: dict[str, Any] = shares(cpu, memory, accelerators)
    if new := manifests.read(files or []):
        wanted = manifests.union(describe(play).sources, new)
        manifests.check_together(wanted)
        variables["vllmd_runtime_manifests"] = wanted
    outcome = run(replace(play, check=True), ["plan"], "plan", quiet=True, **variables)
    planned = outcome.published.get("_run", {}).get("vllmd_plan", {}).get("plan")
    if output is not Format.TABLE:
        emit(output, planned or outcome.summary())
    elif planned:
        columns = ("action", "id", "from", "to", "reason")
        emit(output, planned["changes"], columns, "nothing is described, so nothing is planned")
    if planned and not outcome.unreachable():
        check_fits(misfits(planned))
    outcome.check()
