# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the approver tells: systemd, its status file, and one line of JSON in the journal for each thing that it did."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def now() -> str:
    """Return the time, RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Report:
    """Everything that is told of one process, since it started."""

    def __init__(self, path: Path, member: str) -> None:
        self._path, self._member, self._since = path, member, now()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, Any] = {}
        self._looked, self._error, self._leader = "", "", ""
        self._waiting: list[str] = []
        self._bindings = 0
        self._is_ready = False

    def line(self, event: str, **values: Any) -> None:
        """Write one line of JSON."""
        print(json.dumps({"time": now(), "event": event, "member": self._member, **values}), flush=True)

    def decision(self, **values: Any) -> None:
        """Tell what became of a request."""
        self._counted[values["verdict"], values["reason"]] += 1
        self._last = {"time": now(), **values}
        self.line("decision", **values)

    def bindings(self, names: list[str]) -> None:
        """Tell which of kubeadm's bindings were there again."""
        self._bindings += len(names)
        message = "kubeadm's own approval was there and is taken away: it approves whoever has a token"
        self.line("bindings", removed=names, message=message)

    def trouble(self, message: str) -> None:
        """Tell why nothing can be done now, once."""
        if message != self._error:
            self.line("trouble", message=message)
        self._error = message
        self._write()

    def looked(self, leader: str, waiting: list[str]) -> None:
        """Tell that the API answered, and who acts."""
        if self._error:
            self.line("answers", message="the API answers again")
        if leader != self._leader:
            self.line("leader", leader=leader)
        self._error, self._leader, self._looked, self._waiting = "", leader, now(), waiting
        self._write()

    def _write(self) -> None:
        """Write the status file and tell systemd; a full disk stops nothing."""
        approved = sum(count for (verdict, _reason), count in self._counted.items() if verdict == "approved")
        denied = {reason: count for (verdict, reason), count in self._counted.items() if verdict == "denied"}
        status = {
            "member": self._member,
            "since": self._since,
            "leader": self._leader,
            "looked": self._looked,
            "trouble": self._error,
            "approved": approved,
            "denied": denied,
            "waiting": self._waiting,
            "bindings_removed": self._bindings,
            "last": self._last,
        }
        said = self._error or (f"leader {self._leader}, {approved} approved, {sum(denied.values())} denied")
        ready = "" if self._is_ready else "READY=1\n"
        self._is_ready = True
        self.notify(f"{ready}WATCHDOG=1\nSTATUS={said[:200]}")
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            self.line("status", message=f"cannot write {self._path}: {error.strerror}")

    @staticmethod
    def notify(text: str) -> None:
        """Tell systemd (sd_notify(3)); without it nobody is told."""
        where = os.environ.get("NOTIFY_SOCKET", "")
        if not where:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect("\0" + where[1:] if where.startswith("@") else where)
            connection.sendall(text.encode())
