# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl runtimes``: check hosts; configure, start, watch, stop and delete runtimes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import places
from ..ansible_play import Play
from ..errors import DONE, FAILED, NOT_READY, NOT_RUNNING, UNKNOWN, USAGE, CtlError
from ..options import Chosen, Id, Ids, Output, changes, reads
from ..output import Format, agreed, emit, say
from . import console
from .plan import Accelerators, Cpu, Memory, check_fits, plan_first, shares

app = typer.Typer(rich_markup_mode=None)

_COLUMNS = ("id", "host", "state", "health", "uptime", "model", "url")


def _finish(outcome: Any, output: Format) -> None:
    """Print the end for programs, and raise CtlError when it is a failure."""
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()


@app.command("precheck")
@changes
def precheck(play: Play, output: Output = Format.TABLE) -> None:
    """Say whether the hosts can run runtimes, and what to type if not.

    Exit status: 0 ready, 1 warnings and the policy is strict, 2 not ready.
    """
    import json

    from ..ansible import run

    directory = places.make_private_directory(places.state_directory() / "precheck")
    fleet_file = directory / "fleet.json"
    fleet_file.unlink(missing_ok=True)  # what an earlier run found must not pass for this one's verdict
    quiet = output is not Format.TABLE
    outcome = run(play, ["precheck"], "runtimes precheck", quiet=quiet, precheck_report_dir=str(directory))
    try:
        fleet = json.loads(fleet_file.read_text(encoding="utf-8"))
    except FileNotFoundError:  # a check writes no report; then Ansible's verdict is all there is
        if outcome.status == 2 and not outcome.unreachable():
            raise CtlError(outcome.reason(), NOT_READY) from None
        _finish(outcome, output)
        return
    if output is not Format.TABLE:
        emit(output, fleet)
    else:
        say(f"report: {directory}/index.html")
    raise typer.Exit(int(fleet["exit_status"]))


@app.command("configure")
@changes
def configure(
    play: Play,
    cpu: Cpu = None,
    memory: Memory = None,
    accelerators: Accelerators = None,
    output: Output = Format.TABLE,
) -> None:
    """Plan which replica runs where, and write what each needs: config image, environment file, unit. Starts none."""
    from ..ansible import become_root, run
    from ..lock import exclusive

    become_root(play.inventory)
    with exclusive(play.inventory, "runtimes configure"):
        placements, unfit = plan_first(play, shares(cpu, memory, accelerators))
        outcome = run(placements, ["configure"], "runtimes configure")
    _finish(outcome, output)
    check_fits(unfit)
    if play.check:
        say("nothing was changed: this was a check")


@app.command("generate")
@changes
def generate(
    play: Play,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Image profile, cpu or cuda; the inventory's by default.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Build, check and publish the guest image. With unchanged inputs there is nothing to do."""
    from ..ansible import become_root, run
    from ..lock import exclusive

    become_root(play.inventory)
    variables: dict[str, Any] = {"runtime_assembler_profile": profile} if profile else {}
    with exclusive(play.inventory, "runtimes generate"):
        outcome = run(play, ["generate"], "runtimes generate", **variables)
    _finish(outcome, output)


def _change(
    play: Play, verb: str, playbooks: list[str], ids: list[str] | None, output: Format, **variables: Any
) -> None:
    """Run a verb's playbook for the runtimes that ``ids`` name, and say how they are then."""
    from ..ansible import become_root, run
    from ..fleet import describe, limited
    from ..lock import exclusive

    become_root(play.inventory)
    with exclusive(play.inventory, " ".join([f"runtimes {verb}", *(ids or [])])):
        fleet = describe(play)
        chosen = fleet.select(ids or [])
        if verb != "stop":
            variables |= fleet.placements()
        names = sorted({each.id for each in chosen} | {each.runtime for each in chosen})
        if not names:
            say("there is no runtime; 'vllmdctl apply FILE' makes one")
            return
        on_hosts = sorted({each.id for each in chosen if each.state != "absent"})
        if verb == "stop" and not on_hosts:
            raise CtlError(f"{', '.join(names)} was never started, so there is nothing to stop", NOT_RUNNING)
        if ids:  # by default a playbook means all, and finds out itself
            variables |= {"vllmd_runtime_names": names}
            if on_hosts:
                variables |= {"hypervisor_names": on_hosts}
                if verb == "stop":
                    play = limited(play, [each for each in chosen if each.state != "absent"])
        outcome = run(play, playbooks, f"runtimes {verb}", **variables)
        _finish(outcome, output)
        if play.check:
            say("nothing was changed: this was a check")
        elif output is Format.TABLE:
            wanted = {(each.id, each.host) for each in chosen}
            after = [each for each in describe(play).replicas if (each.id, each.host) in wanted or each.id in names]
            emit(output, [each.row() for each in after], _COLUMNS)


@app.command("start")
@changes
def start(play: Play, ids: Ids = None, output: Output = Format.TABLE) -> None:
    """Launch runtimes, each in its own virtual machine, and wait until their models serve."""
    _change(play, "start", ["start"], ids, output)


All = Annotated[bool, typer.Option("--all", help="All of them.")]


def _named(verb: str, ids: list[str] | None, everything: bool) -> None:
    """Raise CtlError unless it was said which runtimes are meant: what ends answers is never meant by silence."""
    if not ids and not everything:
        raise CtlError(f"say which runtimes to {verb}, or --all; 'vllmdctl runtimes list' shows them", USAGE)
    if ids and everything:
        raise CtlError(f"--all is all of them; leave it or {', '.join(ids)} out", USAGE)


@app.command("stop")
@changes
def stop(play: Play, ids: Chosen = None, everything: All = False, output: Output = Format.TABLE) -> None:
    """Power guests off. What is configured stays."""
    _named("stop", ids, everything)
    _change(play, "stop", ["stop"], ids, output)


@app.command("restart")
@changes
def restart(play: Play, ids: Chosen = None, everything: All = False, output: Output = Format.TABLE) -> None:
    """Power guests off, start them again, and wait until their models serve."""
    _named("restart", ids, everything)
    _change(play, "restart", ["restart"], ids, output)


@app.command("list")
@reads
def list_(play: Play, output: Output = Format.TABLE) -> None:
    """Show every runtime: what is described, and what runs where."""
    from ..fleet import describe, warn_unreachable

    fleet = describe(play)
    emit(output, [each.row() for each in fleet.replicas], _COLUMNS, "no runtimes yet; 'vllmdctl apply FILE' makes some")
    raise typer.Exit(warn_unreachable(fleet))


@app.command("status")
@reads
def status(play: Play, ids: Ids = None, output: Output = Format.TABLE) -> None:
    """Show how runtimes are. Exit status: 0 all run, 3 one does not, 4 one can't be asked."""
    from ..fleet import describe, warn_unreachable

    fleet = describe(play)
    chosen = fleet.select(ids or [])
    rows = [each.row() for each in chosen]
    if output is Format.TABLE and len(rows) == 1:
        emit(output, rows[0])
    else:
        emit(output, rows, (*_COLUMNS, "pid", "backend", "vm_state", "message"), "no runtimes yet")
    states = {each.state for each in chosen}
    ended = UNKNOWN if states - {"running", "stopped", "absent"} else NOT_RUNNING if states - {"running"} else DONE
    raise typer.Exit(warn_unreachable(fleet) or ended)


app.command("logs")(console.logs)
app.command("console")(console.console)


@app.command("delete")
@changes
def delete(
    play: Play,
    runtime: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Stop a runtime for good and remove its files and its manifest. Images stay."""
    from ..ansible import become_root, run
    from ..fleet import describe, limited
    from ..lock import exclusive

    become_root(play.inventory)
    with exclusive(play.inventory, f"runtimes delete {runtime}"):
        fleet = describe(play)
        chosen = fleet.find(runtime)
        names = sorted({each.id for each in chosen})
        hosts = sorted({each.host for each in chosen})
        if not (yes or play.check or agreed(f"Delete {', '.join(names)} on {', '.join(hosts)}?")):
            raise CtlError("nothing was deleted; answer y, or say --yes", FAILED)
        if fleet.unreachable:
            missing = ", ".join(fleet.unreachable)
            raise CtlError(f"{missing} can't be reached and may run it, too; name the hosts with --limit", FAILED)
        outcome = run(limited(play, chosen), ["delete"], "runtimes delete", delete_names=names)
        if outcome.ok() and not play.check:
            directory = places.manifests_directory(play.inventory)
            for name in {each.runtime for each in chosen} & set(names):
                # Only what apply put there; others' files are theirs.
                (directory / f"{name}.yaml").unlink(missing_ok=True)
            if fleet.plan_file:
                plan_first(play, {}, quiet=True)  # its place is free from now on
            left = describe(play).sources.keys() & set(names)
            for name in sorted(left):
                say(f"warning: {fleet.sources[name]} still describes {name}, so the next apply starts it again")
    _finish(outcome, output)
