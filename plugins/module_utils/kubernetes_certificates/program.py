# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Command vllmd-certificates, which a timer runs on hosts of a control plane: renew what is due, list what there is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from .. import locks
from ..kubernetes.errors import NodeError
from . import inventory, libraries, renewal

ROOT = Path("/")
SETTINGS = Path("/etc/vllmd/certificates.json")
#: The same that the collection's modules hold.
LOCK = Path("/run/lock/vllmd-kubernetes-certificates.lock")
_WAIT_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 done, 1 failed or, of list, something is due or expired."""
    parser = argparse.ArgumentParser(prog="vllmd-certificates", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="list the certificates of this host with the days that are left")
    listing.add_argument("--json", action="store_true", help="for programs")
    renewing = commands.add_parser("renew", help="renew what is due, and start again who has to take it")
    renewing.add_argument("--all", action="store_true", help="renew what is not due, too")
    renewing.add_argument("--check", action="store_true", help="only say what would be done")
    given = parser.parse_args(arguments)
    if missing := libraries.missing():
        _say(
            f"vllmd-certificates: Python's {missing} is not installed; run role control_plane_controller again",
            sys.stderr,
        )
        return 1
    try:
        settings = _settings()
        return _list(settings, given.json) if given.command == "list" else _renew(settings, given)
    except (NodeError, locks.LockedError) as error:
        _say(f"vllmd-certificates: {error}", sys.stderr)
    except OSError as error:
        _say(f"vllmd-certificates: {error.filename}: {error.strerror}", sys.stderr)
    return 1


def _say(line: str, stream: TextIO | None = None) -> None:
    """Write a line; this is no module, whose standard output is its result."""
    (stream or sys.stdout).write(f"{line}\n")


def _settings() -> renewal.Options:
    try:
        given: dict[str, Any] = json.loads(SETTINGS.read_text(encoding="utf-8"))
        return renewal.Options(**given)
    except FileNotFoundError:
        return renewal.Options()
    except (TypeError, ValueError):
        raise NodeError(f"{SETTINGS} is not what role control_plane_controller writes; run the role again") from None


def _list(settings: renewal.Options, as_json: bool) -> int:
    entries = inventory.of_host(ROOT, datetime.now(UTC), settings.days, settings.kubeconfigs)
    if as_json:
        _say(json.dumps([entry.row() for entry in entries], indent=2))
    for entry in () if as_json else sorted(entries, key=lambda each: each.days_left or 0):
        left = "?" if entry.days_left is None else f"{entry.days_left:.1f}"
        line = f"{left:>8} days  {entry.state:10} {entry.name:34} {entry.path} {entry.trouble}"
        _say(line.rstrip())
    return int(any(entry.state != "ok" for entry in entries))


def _renew(settings: renewal.Options, given: argparse.Namespace) -> int:
    options = replace(settings, everything=given.all)
    with locks.exclusive(LOCK, "renewing certificates", _WAIT_SECONDS):
        done = renewal.renew(ROOT, datetime.now(UTC), options, check=given.check)
    _say(("would: " if given.check else "") + renewal.report(done))
    for line in done.left:
        _say(f"vllmd-certificates: not renewed: {line}", sys.stderr)
    return int(bool(done.left))
