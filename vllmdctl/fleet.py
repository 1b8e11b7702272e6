# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the manifests describe and what runs where, as playbook ``runtimes`` tells it; finding a runtime by its id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from . import places
from .ansible import run
from .ansible_play import Play
from .errors import UNREACHABLE, USAGE, CtlError, nearest
from .lock import duration
from .output import say

_REPLICA = re.compile(r"(.+)\.[1-9][0-9]*")


@dataclass(frozen=True)
class Replica:
    """One virtual machine, or one that is described and was never made on that host (state ``absent``)."""

    id: str
    runtime: str
    host: str
    state: str
    report: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    url: str = ""
    usable: bool = True  # the URL, from this machine
    log: str = ""
    follow: tuple[str, ...] = ()  # the command that says on its host what its unit says, as it comes

    def row(self) -> dict[str, Any]:
        """Return it as ``runtimes list`` shows it."""
        uptime = self.report.get("uptime_seconds")
        return {
            "id": self.id,
            "runtime": self.runtime,
            "host": self.host,
            "state": self.state,
            "uptime": duration(uptime) if uptime else None,
            "model": self.model,
            "url": self.url,
            "pid": self.report.get("pid"),
            "backend": self.report.get("backend"),
            "vm_state": self.report.get("vm_state"),
            "health": _health(self.report.get("health")),
            "message": self.report.get("message"),
            "log": self.log,
        }


@dataclass
class Fleet:
    """All of them."""

    replicas: list[Replica]
    sources: dict[str, str]  # manifests by the runtime's name
    unreachable: list[str]
    plan_file: str = ""  # once hosts were configured by a plan

    def placements(self) -> dict[str, Any]:
        """Return the variable that makes playbooks run what the plan says, where there is one; it is read when used."""
        if not self.plan_file:
            return {}
        file = f"lookup('ansible.builtin.file', {self.plan_file!r})"
        return {"vllmd_placements": f"{{{{ ({file} | from_json).placements }}}}"}

    def names(self) -> list[str]:
        """Return every id and every runtime's name."""
        return sorted({each.id for each in self.replicas} | {each.runtime for each in self.replicas})

    def find(self, wanted: str) -> list[Replica]:
        """Return the replicas that ``wanted`` names: an id, a runtime, or the beginning of one of them only.

        Raises CtlError with suggestions.
        """
        names = self.names()
        if wanted not in names:
            begun = [name for name in names if name.startswith(wanted)] if wanted else []
            runtimes = {_runtime_of(name, set(self.sources)) for name in begun}
            if not begun:
                raise CtlError(f"no runtime {wanted!r}{nearest(wanted, names)}{self._unseen()}", USAGE)
            if len(begun) > 1 and runtimes != {begun[0]}:
                raise CtlError(f"{wanted!r} is the beginning of {', '.join(begun)}; say more of it", USAGE)
            wanted = begun[0]
        return [each for each in self.replicas if wanted in (each.id, each.runtime)]

    def select(self, wanted: list[str]) -> list[Replica]:
        """Return the replicas that all of ``wanted`` name, each once; all there are when nothing is named."""
        if not wanted:
            return self.replicas
        found = {(each.id, each.host): each for one in wanted for each in self.find(one)}
        return list(found.values())

    def _unseen(self) -> str:
        return f" ({', '.join(self.unreachable)} can't be reached)" if self.unreachable else ""


def _runtime_of(name: str, runtimes: set[str]) -> str:
    """Return the runtime that a replica's id is of: ``NAME`` or ``NAME.1``."""
    if name in runtimes:
        return name
    match = _REPLICA.fullmatch(name)
    return match.group(1) if match else name


def _health(report: dict[str, Any] | None) -> str | None:
    """Return the launcher's watch over the guest in words; None where nobody watches, as without systemd."""
    if not report:
        return None
    if report.get("healthy"):
        return "healthy"
    error = f" ({report['error']})" if report.get("error") else ""
    return ("not healthy" if report.get("served") else "starting") + error


def describe(play: Play, manifests: list[str] | None = None) -> Fleet:
    """Ask all hosts. ``manifests`` stand for those of the inventory. Raises CtlError; hosts may be missing."""
    asking = Play(play.inventory, play.limit, verbose=play.verbose, extra=play.extra, variables=play.variables)
    variables = {} if manifests is None else {"vllmd_runtime_manifests": manifests}
    outcome = run(asking, ["runtimes"], "runtimes list", quiet=True, **variables)
    if any(not failure.unreachable for failure in outcome.failures) or (outcome.status and not outcome.failures):
        outcome.check()
    fleet = Fleet([], {}, outcome.unreachable())
    for host, data in sorted(outcome.data().items()):
        _add(fleet, host, data)
    fleet.replicas.sort(key=lambda each: (each.runtime, each.id, each.host))
    if manifests is None:
        remember(play.inventory, fleet)
    return fleet


def _add(fleet: Fleet, host: str, data: dict[str, Any]) -> None:
    described = {each["metadata"]["name"]: each for each in data["vllmd_runtimes"]}
    urls = dict(zip(described, data["vllmd_urls"], strict=True))
    fleet.sources |= data["vllmd_sources"]
    fleet.plan_file = data["vllmd_plan_file"]
    states: dict[str, dict[str, Any]] = dict(data["vllmd_states"])
    for name in described:
        states.setdefault(name, {"state": "absent"})
    for name, report in states.items():
        runtime = _runtime_of(name, set(data["vllmd_sources"]))
        url, usable = _reachable(urls.get(name, ""), data["vllmd_host"])
        model = described[name]["spec"]["model"]["name"] if name in described else ""
        log = f"{data['vllmd_log_directory']}/{name}.log"
        follow = tuple(each.replace("NAME", name) for each in data.get("vllmd_follow", ()))
        fleet.replicas.append(Replica(name, runtime, host, report["state"], report, model, url, usable, log, follow))


def _reachable(url: str, host: dict[str, Any]) -> tuple[str, bool]:
    """Return the URL as it is reached from here, and whether it is: another host's loopback is not."""
    if not url:
        return "", False
    parts = urlsplit(url)
    if parts.hostname in ("0.0.0.0", "::") and not host["local"]:  # noqa: S104  # compared, not bound
        address = host["address"]
        return urlunsplit(parts._replace(netloc=f"{address}:{parts.port}")), True
    return url, bool(host["local"]) or not str(parts.hostname).startswith(("127.", "localhost"))


def _memory() -> Path:
    return places.state_directory() / "endpoints.json"


def remember(inventory: Path, fleet: Fleet) -> None:
    """Keep what ``infer`` needs, so that a question does not wait for Ansible. Losing it loses a second."""
    known = recall()
    known[str(inventory)] = [
        {"id": each.id, "runtime": each.runtime, "host": each.host, "state": each.state, "model": each.model}
        | {"url": each.url, "usable": each.usable}
        for each in fleet.replicas
    ]
    path = _memory()
    try:
        places.write_file(path, json.dumps(known))
    except OSError as error:
        say(f"warning: cannot keep {path}: {error.strerror}")


def recall() -> dict[str, list[dict[str, Any]]]:
    """Return what is kept, by inventory; nothing when it can't be read."""
    try:
        known = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def limited(play: Play, replicas: list[Replica]) -> Play:
    """Return the play for the hosts of these replicas only."""
    hosts = ",".join(sorted({each.host for each in replicas}))
    return Play(play.inventory, hosts, play.check, play.diff, play.verbose, play.extra, play.variables)


def warn_unreachable(fleet: Fleet) -> int:
    """Say which hosts could not be asked, and return the exit status for that."""
    if not fleet.unreachable:
        return 0
    say(f"error: can't be reached, so not in the list: {', '.join(fleet.unreachable)}")
    return UNREACHABLE
