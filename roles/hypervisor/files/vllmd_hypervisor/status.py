"""`vllmd-hypervisor status`: whether the runtime's VMM lives, and what it says of its guest."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from vllmd_hypervisor.backend import BACKENDS
from vllmd_hypervisor.config import parse_identity
from vllmd_hypervisor.errors import EXIT_NOT_RUNNING, EXIT_OK, EXIT_UNKNOWN, ConfigError, LaunchError
from vllmd_hypervisor.output import write_line
from vllmd_hypervisor.state import Holder, RunDirectory
from vllmd_hypervisor.watch import read as read_health

_STDOUT = 1
_ANSWER_SECONDS = 5.0
_EXIT_CODES = {"running": EXIT_OK, "stopped": EXIT_NOT_RUNNING, "unknown": EXIT_UNKNOWN}


def status(environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print one line (or one JSON object) on standard output and return an init script's exit code: 0, 3 or 4."""
    report = collect(environ)
    write_line(_STDOUT, json.dumps(report) if as_json else _sentence(report))
    return _EXIT_CODES[report["state"]]


def collect(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the report: every key is always there, null where it does not apply."""
    report: dict[str, Any] = {
        "name": None,
        "state": "unknown",
        "pid": None,
        "backend": None,
        "uptime_seconds": None,
        "vm_state": None,
        "sockets": {},
        "health": None,
        "message": None,
    }
    try:
        run = RunDirectory(parse_identity(environ, os.geteuid()))
        report["name"] = run.name
        holder = run.find_holder()
    except (ConfigError, LaunchError) as error:
        return report | {"message": str(error)}
    if holder is None:
        return report | {"state": "stopped"}
    try:
        return report | _running(run, holder)
    finally:
        os.close(holder.pidfd)


def _running(run: RunDirectory, holder: Holder) -> dict[str, Any]:
    vm_state, message = None, None
    try:
        vm_state = BACKENDS[holder.backend].vm_state(run, _ANSWER_SECONDS)
    except (OSError, LaunchError) as error:
        message = f"the VMM does not answer: {error}"
    return {
        "state": "running",
        "pid": holder.pid,
        "backend": holder.backend,
        "uptime_seconds": _uptime_seconds(holder.pid),
        "vm_state": vm_state,
        "sockets": {purpose: str(path) for purpose, path in run.sockets().items()},
        "health": read_health(run, holder.pid),
        "message": message,
    }


def _uptime_seconds(pid: int) -> float | None:
    """Return how long ago a process started, from field 22 of /proc/PID/stat and /proc/uptime."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        booted = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
    return max(0.0, round(booted - int(after_name[19]) / os.sysconf("SC_CLK_TCK"), 2))


def _sentence(report: dict[str, Any]) -> str:
    name = report["name"] or "runtime"
    if report["state"] != "running":
        return f"{name} is {report['state']}" + (f": {report['message']}" if report["message"] else "")
    guest = report["vm_state"] or report["message"]
    health = _health_words(report["health"])
    return (
        f"{name} is running (pid {report['pid']}, {report['backend']}, {report['uptime_seconds']} s): {guest}"
        f"{f'; {health}' if health else ''}"
    )


def _health_words(health: dict[str, Any] | None) -> str:
    """Say how the guest is: `healthy for 31 s`, or for how long not and what its health's URL answered."""
    if health is None:
        return ""
    seconds = f"{max(0.0, time() - health['since']):.0f} s"
    if health["healthy"]:
        return f"healthy for {seconds}"
    kind = "not healthy for" if health["served"] else "does not serve yet, after"
    return f"{kind} {seconds}" + (f" ({health['url']}: {health['error']})" if health["error"] else "")
