# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Options that commands share, declared once."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import places
from .ansible_play import Play
from .errors import USAGE, CtlError
from .output import Format

Inventory = Annotated[
    str | None,
    typer.Option(
        "--inventory", "-i", envvar="VLLMD_INVENTORY", metavar="PATH", help="Inventory instead of the environment's."
    ),
]
Limit = Annotated[
    str | None, typer.Option("--limit", "-l", metavar="HOSTS", help="Only these hosts, as Ansible's --limit has it.")
]
Check = Annotated[bool, typer.Option("--check", help="Say what would be done, and do nothing.")]
Diff = Annotated[bool, typer.Option("--diff", help="Show what changes in files.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Show the ansible-playbook command; -vv shows every task, too."),
]
Extra = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", metavar="VARS", help="Variables for the playbook, as Ansible's -e has them."),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How results are printed.")]


def complete_id(incomplete: str) -> list[str]:
    """Return the runtimes that a shell may complete ``incomplete`` to, from what was seen last."""
    from .fleet import recall

    names = {str(each[key]) for known in recall().values() for each in known for key in ("id", "runtime")}
    return sorted(name for name in names if name.startswith(incomplete))


Id = Annotated[
    str,
    typer.Argument(
        metavar="RUNTIME_ID", help="Its name, or a beginning that no other has.", autocompletion=complete_id
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUNTIME_ID]...",
        help="Their names, or beginnings that no other has; all of them by default.",
        autocompletion=complete_id,
    ),
]
Chosen = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUNTIME_ID]...", help="Their names, or beginnings that no other has.", autocompletion=complete_id
    ),
]

_READING: dict[str, tuple[Any, Any]] = {
    "inventory": (Inventory, None),
    "limit": (Limit, None),
    "verbose": (Verbose, 0),
    "extra": (Extra, None),
}
_CHANGING: dict[str, tuple[Any, Any]] = {**_READING, "check": (Check, False), "diff": (Diff, False)}


def reads(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that only asks hosts the options for that; its first parameter, ``play``, takes them."""
    return _with(function, _READING)


def changes(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that changes hosts the options for that; its first parameter, ``play``, takes them."""
    return _with(function, _CHANGING)


def _with(function: Callable[..., None], options: dict[str, tuple[Any, Any]]) -> Callable[..., None]:
    hints = typing.get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    parameters = [each.replace(annotation=hints[each.name]) for each in own]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]

    def command(*positional: Any, **given: Any) -> None:
        taken = {name: given.pop(name) for name in options}
        function(make_play(**taken), *positional, **given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def make_play(
    inventory: str | None,
    *,
    limit: str | None = None,
    verbose: int = 0,
    extra: list[str] | None = None,
    check: bool = False,
    diff: bool = False,
) -> Play:
    """Return the options as one thing. Raises CtlError."""
    for each in extra or []:
        if not each.strip():
            raise CtlError("-e is empty; expected NAME=VALUE, JSON or @FILE", USAGE)
        if each.lstrip().startswith("{"):
            try:
                json.loads(each)
            except ValueError as error:
                raise CtlError(f"-e {each}: not JSON: {error}", USAGE) from None
    return Play(places.inventory(inventory), limit, check, diff, verbose, tuple(extra or ()))
