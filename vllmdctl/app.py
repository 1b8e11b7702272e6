# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from . import __doc__ as about
from .commands import (
    apply,
    certificates,
    doctor,
    hosts,
    images,
    infer,
    initialize,
    nodes,
    plan,
    runtimes,
    scale,
    update,
)

# Without Rich's own help pages, which take longer to load than most commands to run.
app = typer.Typer(
    help=f"{about}\n\nExit status: 0 done, 1 failed, 2 a host is not ready, 3 not running, 4 unknown, 5 in use by "
    "another vllmdctl, 6 not reachable, 64 wrong command line, 65 wrong manifest or inventory, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            print(metadata.version("vllmd-platform"))
        except metadata.PackageNotFoundError:  # run from a checkout
            from .places import collection_directory

            for line in (collection_directory() / "galaxy.yml").read_text(encoding="utf-8").splitlines():
                if line.startswith("version:"):
                    print(line.partition(":")[2].strip())
        raise typer.Exit


@app.callback()
def vllmdctl(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options of the program itself."""


app.command("apply")(apply.apply)
app.command("plan")(plan.plan)
app.command("infer")(infer.infer)
app.command("doctor")(doctor.doctor)
runtimes.app.command("update")(update.update)
runtimes.app.command("scale")(scale.scale)
for _group, _name, _help in (
    (initialize.app, "initialize", "Prepare this machine."),
    (runtimes.app, "runtimes", "Check hosts; configure, start, watch and stop runtimes."),
    (images.app, "images", "List, verify and clean up guest images."),
    (hosts.app, "hosts", "What the hosts are and have."),
    (certificates.app, "certificates", "A cluster's certificates: how long they count, and new ones."),
    (nodes.app, "nodes", "Nodes of a Kubernetes cluster: who is one, who joins, leaves and is approved."),
):
    app.add_typer(_group, name=_name, help=_help, no_args_is_help=True)
