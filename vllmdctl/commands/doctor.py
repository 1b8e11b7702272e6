# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl doctor``: what on this side is not as it should be, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .. import places
from ..ansible_play import Play
from ..errors import DONE, FAILED, NOT_READY, CtlError
from ..options import Inventory, Output, make_play
from ..output import Format, emit, human_size

_LEAST_FREE_BYTES = 20 * 1024**3  # an image, its build and its caches

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
Finding = tuple[str, str, str, str]  # status, what, evidence, remedy


def doctor(
    inventory: Inventory = None,
    no_hosts: Annotated[bool, typer.Option("--no-hosts", help="Do not ask the hosts.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Check installation, environment, hosts and the runtimes' APIs. Exit status: 0 well, 1 warnings, 2 not."""
    findings = [*_installation(), *_environment(inventory, not no_hosts)]
    rows = [dict(zip(("status", "what", "evidence", "remedy"), each, strict=True)) for each in findings]
    emit(output, rows, ("status", "what", "evidence", "remedy"))
    statuses = {row["status"] for row in rows}
    raise typer.Exit(NOT_READY if FAIL in statuses else FAILED if WARN in statuses else DONE)


def _installation() -> Iterator[Finding]:
    try:
        yield PASS, "playbooks", str(places.collection_directory()), ""
        command = [places.program("ansible-playbook"), "--version"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        version = (done.stdout.splitlines() or [done.stderr.strip()])[0]
        if "core 2.19." in version:
            yield PASS, "ansible-core", version, ""
        else:
            yield FAIL, "ansible-core", version, "install ansible-core 2.19 into the environment of vllmdctl"
    except CtlError as error:
        yield FAIL, "installation", str(error), "pipx install --force vllmd-platform"
    except (OSError, subprocess.TimeoutExpired) as error:
        yield FAIL, "ansible-core", str(error), "pipx install --force vllmd-platform"
    missing = [name for name in ("ssh", "git") if shutil.which(name) is None]
    if missing:
        yield WARN, "programs", f"missing: {', '.join(missing)}", "vllmdctl initialize environment"
    else:
        yield PASS, "programs", "ssh, git", ""
    store = next(path for path in (Path("/var/lib/vllmd"), Path("/var/lib"), Path("/")) if path.exists())
    free = shutil.disk_usage(store).free
    if free < _LEAST_FREE_BYTES:
        yield WARN, "disk", f"{human_size(free)} free at {store}", "an image needs about 20 GiB to be built; make room"
    else:
        yield PASS, "disk", f"{human_size(free)} free at {store}", ""


def _environment(named: str | None, ask_hosts: bool) -> Iterator[Finding]:
    from .hosts import inventory_hosts

    try:
        play = make_play(named)
    except CtlError as error:
        yield FAIL, "environment", str(error), "vllmdctl initialize environment"
        return
    try:
        hosts = inventory_hosts(play)
    except CtlError as error:
        yield FAIL, "inventory", str(error), "correct the inventory"
        return
    hypervisors = [each["host"] for each in hosts if "hypervisors" in each["groups"]]
    if not hypervisors:
        yield FAIL, "inventory", f"{play.inventory}: group hypervisors is empty", "name hosts in group hypervisors"
        return
    yield PASS, "inventory", f"{play.inventory}: {len(hosts)} hosts, {len(hypervisors)} hypervisors", ""
    state = places.state_directory()
    writable = os.access(next(path for path in (state, *state.parents) if path.exists()), os.W_OK)
    yield (PASS, "logs", str(state), "") if writable else (FAIL, "logs", f"{state} is read-only", "set XDG_STATE_HOME")
    if ask_hosts:
        yield from _hosts(play)


def _hosts(play: Play) -> Iterator[Finding]:
    from ..fleet import describe

    try:
        fleet = describe(play)
    except CtlError as error:
        yield FAIL, "hosts", str(error), "vllmdctl runtimes list -v shows the command"
        return
    for host in fleet.unreachable:
        yield FAIL, host, "can't be reached", f"ssh {host} must work without a question"
    for each in fleet.replicas:
        where = f"{each.id} on {each.host}"
        if each.state == "running" and each.url and each.usable:
            yield _api(where, each.url)
        elif each.state == "running":
            yield PASS, where, "running; its API is not reached from here", ""
        else:
            yield WARN, where, each.state, f"vllmdctl runtimes start {each.id}"
    if not fleet.replicas and not fleet.unreachable:
        yield WARN, "runtimes", "none is described", "vllmdctl apply runtime.yaml"


def _api(where: str, url: str) -> Finding:
    from vllmd.client import Client, VllmdError

    try:
        with Client(url, timeout=30, retries=0) as llm:
            return PASS, where, f"{url} serves {', '.join(llm.models())}", ""
    except VllmdError as error:
        return FAIL, where, str(error), f"vllmdctl runtimes logs {where.split(' ', maxsplit=1)[0]}"
