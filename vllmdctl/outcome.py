# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""How a playbook ended: what its events tell, and the one line for a person."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BUSY, FAILED, INTERRUPTED, REFUSED, UNREACHABLE, CtlError

# ansible-playbook's own, lib/ansible/executor/task_queue_manager.py and cli/__init__.py
_UNREACHABLE, _USAGE, _PARSER, _INTERRUPTED = 4, 5, 4, 99


@dataclass(frozen=True)
class Failure:
    """One host's end."""

    host: str
    task: str
    message: str
    unreachable: bool = False
    refused: bool = False  # a manifest was
    busy: bool = False  # somebody else holds a lock

    def __str__(self) -> str:
        return f"{self.host}: {self.task}: {self.message}"


@dataclass
class Outcome:
    """What one run told, updated while it runs."""

    verb: str
    log: Path
    events: Path
    status: int = 0
    said: list[str] = field(default_factory=list)
    plays: int = 0
    play: str = ""
    play_number: int = 0
    task: str = ""
    changed: int = 0
    failures: list[Failure] = field(default_factory=list)
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    _position: int = 0

    def read_events(self) -> None:
        """Take in what was appended to the events since the last call."""
        try:
            with self.events.open("rb") as stream:
                stream.seek(self._position)
                appended = stream.read()
        except FileNotFoundError:
            return
        whole, newline, _rest = appended.rpartition(b"\n")
        self._position += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except ValueError:
                continue  # a full disk may have cut a line off

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "start":
            self.plays = event["plays"]
        elif kind == "play":
            self.play, self.play_number, self.task = event["name"], self.play_number + 1, ""
        elif kind == "task":
            self.task = event["name"]
        elif kind == "result":
            result = event.get("result") or {}
            self.changed += bool(result.get("changed"))
            if event["status"] in ("failed", "unreachable"):
                self.failures.append(_failure(event, result))
        elif kind == "stats":
            self.hosts, self.published = event["hosts"], event.get("published") or {}

    def ok(self) -> bool:
        """Return whether everything succeeded."""
        return self.status == 0

    def unreachable(self) -> list[str]:
        """Return the hosts that could not be reached."""
        return sorted({failure.host for failure in self.failures if failure.unreachable})

    def data(self) -> dict[str, dict[str, Any]]:
        """Return what each host published."""
        return {host: values for host, values in self.published.items() if host != "_run"}

    def summary(self) -> dict[str, Any]:
        """Return the end for programs."""
        return {
            "command": self.verb,
            "ok": self.ok(),
            "changed": self.changed,
            "hosts": self.hosts,
            "failures": [
                {"host": each.host, "task": each.task, "message": each.message, "unreachable": each.unreachable}
                for each in self.failures
            ],
            "log": str(self.log),
        }

    def check(self) -> None:
        """Raise CtlError unless everything succeeded."""
        if self.ok():
            return
        raise CtlError(self.reason(), self.exit_status())

    def exit_status(self) -> int:
        """Return the command's exit status."""
        if self.status == _INTERRUPTED:
            return INTERRUPTED
        if any(failure.refused for failure in self.failures):
            return REFUSED
        if any(failure.busy for failure in self.failures):
            return BUSY
        if self.failures and all(failure.unreachable for failure in self.failures):
            return UNREACHABLE
        if not self.failures and self.status == _PARSER:
            return REFUSED
        return FAILED if self.status else 0

    def reason(self) -> str:
        """Return why it failed, in one line; for a refused manifest one line for each wrong field."""
        if not self.failures:
            return f"{self.verb} failed: {self._last_words()}; log {self.log}"
        first = self.failures[0]
        if first.refused:
            return first.message
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        what = "cannot reach" if first.unreachable else f"{self.verb} failed on"
        message = " ".join(first.message.split())
        where = f"{first.host}: {message}" if first.unreachable else f"{first.host}: {first.task}: {message}"
        return f"{what} {where}{more}; log {self.log}"

    def _last_words(self) -> str:
        """Return Ansible's own error, or the last line that it said."""
        for line in self.said:
            for mark in ("ERROR! ", "[ERROR]: "):
                if mark in line:
                    return line.partition(mark)[2].strip()
        told = [line.strip() for line in self.said if line.strip()]
        return told[-1] if told else f"ansible-playbook ended with {self.status}"


def _failure(event: dict[str, Any], result: dict[str, Any]) -> Failure:
    # Of a loop, the first item that failed tells more than the loop.
    items = [each for each in result.get("results") or [] if isinstance(each, dict)]
    items = [each for each in items if each.get("failed") or each.get("unreachable")]
    told = items[0] if items else result
    message = str(told.get("msg") or "no reason given").strip()
    said = str(told.get("stderr") or told.get("stdout") or "").strip().splitlines()
    if said and said[-1].strip() not in message:  # a command's own last words say more than that it failed
        message = f"{message}: {said[-1].strip()}"
    refused = bool(result.get("errors")) and str(event.get("action", "")).endswith("runtime_manifest")
    gone = event["status"] == "unreachable"
    return Failure(event["host"], event["task"], message, gone, refused, bool(result.get("locked")))
