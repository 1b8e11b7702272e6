# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The program: runs a command and turns whatever ends it into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from .app import app
from .errors import FAILED, INTERRUPTED, USAGE, CtlError
from .output import say

# Typer has its own copy of click since 0.26 and used click's before; this is the right one of both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="vllmdctl", standalone_mode=False)
        sys.stdout.flush()
    except CtlError as error:
        first, *others = str(error).splitlines() or [""]
        say(f"error: {first}")
        for line in others:
            say(f"       {line}")
        return error.status
    except _UsageError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"error: {error.filename or 'the operating system'}: {error.strerror or error}")
        return FAILED
    return int(status or 0)


def _usage(error: BaseException) -> int:
    """Say what is wrong with the command line."""
    if type(error).__name__ == "NoArgsIsHelpError":  # a group without its command: its help is the message
        print(error.format_message())  # type: ignore[attr-defined]
        return 0
    message = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "vllmdctl"
    say(f"error: {message.rstrip('.')}; see '{command} --help'")
    return USAGE
