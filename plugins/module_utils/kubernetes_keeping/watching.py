# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Look at this member of a control plane once, restart what hangs, and say why.

    vllmd-control-plane-health [--status] [--dry-run]

A timer runs it. What it says goes to the journal, each warning once and then every hour. Snapshots are never brought
back by it: who does that decides what is lost, which a program cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import atomic, locks
from ..kubernetes.errors import NodeError
from ..kubernetes.programs import run
from . import health, member, probes, validity
from .errors import KeepingError, say

SETTINGS = Path("/etc/vllmd/runtime-controller/health.json")
MAINTENANCE = Path("/var/lib/vllmd/runtime-controller/maintenance.json")
STATE = Path("/run/vllmd-control-plane/health.json")
LOCK = Path("/run/lock/vllmd-control-plane-health.lock")
DISKS = ("/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet", "/var/log")
_ASK_SECONDS = 15.0
_AGAIN_SECONDS = 3600
_ENDING_SECONDS = 10


@dataclass
class Watcher:
    """A round on the host at ``root``; ``ends`` keeps what is known of certificates: path to mtime and end."""

    root: Path = Path("/")
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)

    def see(self, now: float) -> health.Seen:
        """Look at everything. Raises KeepingError for a host that is no member, OSError."""
        here = member.read(self.root)
        url, context = probes.api_server(self.root)
        trouble, unhealthy = self._services(), {}
        trouble[health.ETCD], unhealthy[health.ETCD] = self._etcd(here)
        status, text = probes.get(f"{url}/livez", timeout=_ASK_SECONDS, context=context)
        if status != 200:
            trouble[health.API_SERVER] = f"{url}/livez says {_short(status, text)}"
        else:
            status, text = probes.get(f"{url}/readyz", timeout=_ASK_SECONDS, context=context)
            unhealthy[health.API_SERVER] = "" if status == 200 else f"is not ready: {_short(status, text)}"
        absent = [part for part in (health.ETCD, health.API_SERVER) if trouble.get(part) and not self.processes(part)]
        stopped = [name for name in (health.CONTAINERD, health.KUBELET) if _is_stopped(name)]
        return health.Seen(
            trouble=trouble,
            unhealthy=unhealthy,
            absent=frozenset(absent),
            stopped=frozenset(stopped),
            disks=self._disks(here),
            certificates=self._certificates(now),
            load=os.getloadavg()[0] / (os.cpu_count() or 1),
            maintenance=maintenance(now),
        )

    def _services(self) -> dict[str, str]:
        trouble = {}
        try:
            done = run(["ctr", "--connect-timeout", "10s", "version"], timeout_seconds=_ASK_SECONDS)
            trouble[health.CONTAINERD] = "" if done.status == 0 else f"it does not answer: {done.last_line}"
        except NodeError as error:
            trouble[health.CONTAINERD] = f"it does not answer: {error}"
        status, text = probes.get("http://127.0.0.1:10248/healthz", timeout=_ASK_SECONDS)
        trouble[health.KUBELET] = "" if status == 200 else f"its /healthz says {_short(status, text)}"
        return trouble

    def _etcd(self, here: member.Member) -> tuple[str, str]:
        """Return why etcd does not answer, and why it is not well although it does.

        Its metrics are answered without a quorum, unlike /health (etcd.io, "Monitoring etcd").
        """
        url, context = here.metrics_url or here.client_url, None
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=str(self.root / here.ca_file.lstrip("/")))
            own = self.root / member.PKI / "etcd/healthcheck-client"
            context.load_cert_chain(own.with_suffix(".crt"), own.with_suffix(".key"))
        status, text = probes.get(f"{url}/metrics", timeout=_ASK_SECONDS, context=context)
        if status != 200:
            return f"its /metrics says {_short(status, text)}", ""
        if "\netcd_server_has_leader 0\n" in text:
            return "", (
                "has no leader: too few of its members answer; look at the others, or bring a snapshot back with "
                "playbooks/restore.yml"
            )
        status, text = probes.get(f"{url}/health", timeout=_ASK_SECONDS, context=context)
        return "", "" if status == 200 else f"is not healthy: {_short(status, text)}; 'etcdctl alarm list' says more"

    def processes(self, component: str) -> list[int]:
        """Return the processes that run a static pod's command, by its arguments. Raises KeepingError, OSError."""
        wanted = {
            f"--{name}={value}" for name, value in member.arguments(member.manifest_of(self.root, component)).items()
        }
        found = []
        for path in (self.root / "proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if Path(words[0]).name == component and wanted <= set(words[1:]):
                found.append(int(path.parent.name))
        return found

    def _disks(self, here: member.Member) -> dict[str, float]:
        free: dict[str, float] = {}
        devices = set()
        for name in (here.data_directory, *DISKS):
            path = self.root / name.lstrip("/")
            if path.is_dir() and (device := path.stat().st_dev) not in devices:
                devices.add(device)
                usage = shutil.disk_usage(path)
                free[name] = 100 * usage.free / usage.total
        return free

    def _certificates(self, now: float) -> dict[str, float]:
        """Return the days that each certificate has left. A file is read again when it has changed."""
        known: dict[str, tuple[float, float]] = {}
        kubelet = self.root / "var/lib/kubelet/pki/kubelet-client-current.pem"
        for path in [*sorted((self.root / member.PKI).rglob("*.crt")), *([kubelet] if kubelet.is_file() else [])]:
            changed, before = path.stat().st_mtime, self.ends.get(str(path))
            if before and before[0] == changed:
                known[str(path)] = before
                continue
            try:
                known[str(path)] = (changed, validity.ends(path.read_text(encoding="ascii", errors="replace")))
            except KeepingError:
                known[str(path)] = (changed, 0.0)
        self.ends = known
        return {name: (end - now) / 86400 for name, (_changed, end) in known.items()}

    def restart(self, part: str) -> None:
        """Restart a part. Its containers go on where it has some. Raises KeepingError, OSError."""
        if part in (health.CONTAINERD, health.KUBELET):
            # One that hangs does not hear that it should end, and systemd would wait for it first.
            run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", f"{part}.service"], timeout_seconds=60)
            done = run(["systemctl", "restart", f"{part}.service"], timeout_seconds=180)
            if done.status != 0:
                raise KeepingError(f"{part} does not start: {done.last_line}")
            return
        pids = self.processes(part)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                _signal(pid, number)
            deadline = time.monotonic() + _ENDING_SECONDS
            while time.monotonic() < deadline and set(pids) & set(self.processes(part)):
                time.sleep(0.2)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _short(status: int, text: str) -> str:
    return f"{status or 'nothing'}: {' '.join(text.split())[:200]}"


def _is_stopped(name: str) -> bool:
    """Return whether somebody stopped the unit: what ends by itself is failed, or about to be started again."""
    done = run(["systemctl", "show", "--property=ActiveState,Result", f"{name}.service"], timeout_seconds=30)
    said = dict(line.partition("=")[::2] for line in done.output.splitlines())
    return said.get("ActiveState") == "inactive" and said.get("Result", "success") == "success"


def maintenance(now: float, path: Path = MAINTENANCE) -> str:
    """Return what a playbook does on this member just now; empty when none does, or when it died long ago."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["why"]) if float(found["until"]) > now else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def rules(path: Path = SETTINGS) -> health.Rules:
    """Return what the role wrote; its defaults without. Raises KeepingError."""
    try:
        return health.Rules(**{name: int(value) for name, value in json.loads(path.read_text("utf-8")).items()})
    except FileNotFoundError:
        return health.Rules()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KeepingError(f"{path} cannot be read ({error}); role runtime_controller writes it anew") from None


def load(path: Path = STATE) -> dict[str, Any]:
    """Return what the last round left; nothing when there was none or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def news(warnings: Sequence[str], said: Mapping[str, Any], now: float) -> dict[str, float]:
    """Return when each warning was said last; those of ``now`` are to be said. Numbers in one do not make it new."""
    times = {}
    for line in warnings:
        key = "".join(each for each in line if not each.isdigit())
        before = said.get(key)
        times[key] = before if isinstance(before, (int, float)) and now - before < _AGAIN_SECONDS else now
    return times


def a_round(watcher: Watcher, state: Mapping[str, Any], say: Callable[[int, str], None], dry: bool) -> dict[str, Any]:
    """Look, decide, act; return what the next round needs. Raises KeepingError, NodeError, OSError."""
    now = time.time()
    outcome = health.decide(watcher.see(now), health.remembered(state.get("memory")), int(now), rules())
    said = news(outcome.warnings, state.get("said") or {}, now)
    for line in outcome.warnings:
        if said["".join(each for each in line if not each.isdigit())] == now:
            say(4, line)
    for part, reason in outcome.restarts.items():
        say(5, f"{part} is restarted: {reason}")
        if not dry:
            watcher.restart(part)
    if outcome.healthy and state.get("healthy") is False:
        say(6, "all is well again")
    return {
        "time": int(now),
        "healthy": outcome.healthy,
        "warnings": list(outcome.warnings),
        "restarted": dict(outcome.restarts),
        "memory": health.noted(outcome.memory),
        "said": said,
        "ends": watcher.ends,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status: 0; 1 after one line on standard error, or if --status tells trouble."""
    parser = argparse.ArgumentParser(
        prog="vllmd-control-plane-health", description="Look at this member of a control plane, restart what hangs."
    )
    parser.add_argument(
        "--status", action="store_true", help="say what the last round found; 1 when something was wrong"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be restarted, and restart nothing")
    options = parser.parse_args(argv)
    state = load()
    if options.status:
        say(json.dumps({name: state.get(name) for name in ("time", "healthy", "warnings", "restarted")}))
        return 0 if state.get("healthy") else 1
    ends = {str(name): (float(each[0]), float(each[1])) for name, each in (state.get("ends") or {}).items()}

    def tell(level: int, line: str) -> None:
        # systemd reads the level from the line's beginning (sd-daemon(3)).
        say(f"<{level}>{line}" if "JOURNAL_STREAM" in os.environ else line)

    try:
        with locks.exclusive(LOCK, "looking after the control plane"):
            after = a_round(Watcher(ends=ends), state, tell, options.dry_run)
            if not options.dry_run:
                atomic.make_directory(STATE.parent)
                atomic.write_file(STATE, json.dumps(after).encode(), 0o644)
    except (KeepingError, NodeError, locks.LockedError) as error:
        if why := maintenance(time.time()):
            # A playbook takes parts of the member away and puts them back.
            tell(6, f"not looked at during maintenance ({why}): {error}")
            return 0
        say(f"health: {error}", sys.stderr)
        return 1
    except OSError as error:
        say(f"health: {error.filename}: {error.strerror}", sys.stderr)
        return 1
    return 0
