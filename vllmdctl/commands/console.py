# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl runtimes logs`` and ``console``: what a runtime said, says, and is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..ansible_play import Play
from ..errors import NOT_RUNNING, USAGE, CtlError
from ..options import Id, Output, reads
from ..output import Format, emit

if TYPE_CHECKING:
    from ..fleet import Replica


def _started(play: Play, wanted: str, count: int) -> list[Replica]:
    """Return the replicas named that were started once. Raises CtlError."""
    from ..fleet import describe

    if count < 1:
        raise CtlError(f"--lines is {count}; expected 1 or more", USAGE)
    chosen = [each for each in describe(play).find(wanted) if each.state != "absent"]
    if not chosen:
        raise CtlError(f"{wanted} was never started, so it has said nothing", NOT_RUNNING)
    return chosen


def _lines(play: Play, wanted: str, count: int, console: bool, output: Format) -> None:
    from ..ansible import run
    from ..fleet import limited

    chosen = _started(play, wanted, count)
    where = {each.host: [one.id for one in chosen if one.host == each.host] for each in chosen}
    read: dict[tuple[str, str], list[str]] = {}
    for host, names in where.items():  # one host may have a replica that another has not
        asking = limited(play, [each for each in chosen if each.host == host])
        said = {"logs_names": names, "logs_lines": count, "logs_console": console}
        outcome = run(asking, ["logs"], "runtimes logs", quiet=True, **said)
        outcome.check()
        for name, lines in outcome.data().get(host, {}).get("vllmd_logs", {}).items():
            read[(host, name)] = lines
    if output is not Format.TABLE:
        emit(output, [{"host": host, "id": name, "lines": lines} for (host, name), lines in sorted(read.items())])
        return
    for (host, name), lines in sorted(read.items()):
        if len(read) > 1:
            print(f"==> {name} on {host} <==")
        for line in lines:
            print("".join(char for char in line if char.isprintable() or char == "\t"))


Lines = Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")]


def _follow(play: Play, wanted: str, count: int, console: bool) -> None:
    """Show the last lines, and each further one as it comes, until somebody interrupts."""
    from ..reach import follow, host_command

    commands: dict[str, list[str]] = {}
    for each in _started(play, wanted, count):
        journal = [] if console else list(each.follow)
        read = [*journal, "--follow", f"--lines={count}"] if journal else ["tail", "-n", str(count), "-F", each.log]
        commands[f"{each.id}@{each.host}"] = host_command(play, each.host, read)
    follow(commands)


@reads
def logs(
    play: Play,
    runtime: Id,
    lines: Lines = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show what a runtime's unit said last; without systemd on the host, its console."""
    if follow:
        _only_lines(output)
        _follow(play, runtime, lines, False)
    else:
        _lines(play, runtime, lines, False, output)


@reads
def console(
    play: Play,
    runtime: Id,
    lines: Lines = 50,
    follow: Annotated[
        bool | None,
        typer.Option(
            "--follow/--no-follow",
            "-f",
            help="Go on with what comes, until Ctrl-C; the default where standard output is a terminal.",
        ),
    ] = None,
    attach: Annotated[bool, typer.Option("--attach", help="Talk to the guest, too; Ctrl-] ends it.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show what a runtime's guest writes to its serial console. With --attach, what you type goes to it."""
    if attach or follow:
        _only_lines(output)
    if attach:
        _attach(play, runtime)
    elif follow or (follow is None and sys.stdout.isatty() and output is Format.TABLE):
        _follow(play, runtime, lines, True)
    else:
        _lines(play, runtime, lines, True, output)


def _only_lines(output: Format) -> None:
    if output is not Format.TABLE:
        raise CtlError(f"what has no end can't be printed as {output}; leave --output, --follow or --attach out", USAGE)


def _attach(play: Play, wanted: str) -> None:
    from ..reach import attach

    running = [each for each in _started(play, wanted, 1) if each.state == "running"]
    if not running:
        raise CtlError(f"{wanted} does not run, so there is nothing to attach to", NOT_RUNNING)
    if len(running) > 1:
        names = ", ".join(f"{each.id} on {each.host}" for each in running)
        raise CtlError(f"{wanted} stands for {names}; name one, or its host with --limit", USAGE)
    (each,) = running
    socket = (each.report.get("sockets") or {}).get("console")
    if not socket:
        backend = each.report.get("backend")
        raise CtlError(f"{each.id} has no console to talk to ({backend} gives none); without --attach it is read")
    attach(play, each.host, socket, each.id)
