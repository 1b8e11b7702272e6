"""The watch over a running guest: asks for its health, and tells systemd, the journal and `status` how it is.

It runs in the helper of `start` (driver.py) and lives exactly as long as the VMM: every wait ends with the VMM. It acts
on nothing itself. It tells systemd `READY=1` when the guest serves, `WATCHDOG=1` as long as it may go on, and
`WATCHDOG=trigger` when it may not; then systemd kills the VMM and starts it again by the unit's rules (sd_notify(3)).
"""

import errno
import json
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, time
from typing import Any

from vllmd_hypervisor.errors import one_line, reason
from vllmd_hypervisor.health import (
    HEALTHY,
    REFUSED,
    SERVED,
    SILENT,
    TRIGGER,
    Decision,
    Health,
    History,
    Probe,
    decide,
)
from vllmd_hypervisor.notify import notify
from vllmd_hypervisor.output import say
from vllmd_hypervisor.state import FILE_MODE, RunDirectory

_ANSWER_LIMIT = 4096
# The guest's kernel, or the VMM in its place, says no: somebody lives there.
_REFUSALS = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)
_STARTING_SECONDS = 1.0
_COMM = b"vllmd-health"


class _EndedError(Exception):
    """The VMM ended."""


def watch(health: Health, run: RunDirectory, vmm: tuple[int, int], summary: str, environ: Mapping[str, str]) -> None:
    """Watch until the VMM (its pid, its pidfd) ends; `summary` describes the machine to people."""
    pid, pidfd = vmm
    with suppress(OSError):  # only a name for `ps`
        Path("/proc/self/comm").write_bytes(_COMM)
    report = _Report(health, run, pid, summary, environ)
    history = History.beginning(monotonic())
    report.began(history)
    try:
        while True:
            # Who waits for a start is told soon.
            due = monotonic() + (min(_STARTING_SECONDS, health.interval) if history.served is None else health.interval)
            probe = ask(health, pidfd)
            now = monotonic()
            earlier, history = history, history.after(probe, now)
            report.tell(earlier, history, decide(health, history, now), now)
            _pause(due - monotonic(), pidfd)
    except _EndedError:
        return


class _Report:
    """What the watch tells, and to whom. Each change is one line in the journal."""

    def __init__(self, health: Health, run: RunDirectory, pid: int, summary: str, environ: Mapping[str, str]) -> None:
        self.health = health
        self.run = run
        self.pid = pid
        self.summary = summary
        self.environ = environ
        self.triggered = False

    def began(self, history: History) -> None:
        notify(self.environ, f"STATUS={self.run.name} runs and does not serve yet: {self.summary}")
        self.write(history, monotonic())

    def tell(self, before: History, history: History, decision: Decision, now: float) -> None:
        """Tell the result of one probe."""
        name, url = self.run.name, self.health.url
        self.write(history, now)
        if decision.action == TRIGGER:
            text = f"{name} {decision.reason}; its virtual machine is killed, and started again by its unit"
            if not self.triggered:
                say(text)
            self.triggered = True
            notify(self.environ, f"STATUS={text}", "WATCHDOG=trigger")
            return
        self.triggered = False
        lines = ["WATCHDOG=1"]
        if decision.action == HEALTHY and before.served is None:
            say(f"{name} serves: {url} answered {now - history.began:.0f} s after the start")
            lines += ["READY=1", f"STATUS={name} serves: {self.summary}"]
        elif decision.action == HEALTHY and before.failures:
            say(f"{name} serves again: {url} answered after {now - before.changed:.0f} s without")
            lines += [f"STATUS={name} serves: {self.summary}"]
        elif history.failures == 1 and history.served is not None:
            limits = f"{self.health.silence} s without any answer or {self.health.start} s without a good one"
            say(f"{name} is not healthy: {url}: {history.error}; its virtual machine is restarted after {limits}")
            lines += [f"STATUS={name} is not healthy: {url}: {history.error}"]
        notify(self.environ, *lines)

    def write(self, history: History, now: float) -> None:
        """Write health.json for `status` and other programs."""
        content = {
            "pid": self.pid,
            "url": self.health.url,
            "healthy": history.served is not None and history.failures == 0,
            "served": history.served is not None,
            "since": round(time() - (now - history.changed), 1),
            "failures": history.failures,
            "error": history.error,
        }
        partial = self.run.health_partial
        with suppress(OSError):  # a full /run: the watch goes on, and the journal has it all
            partial.touch(FILE_MODE)
            partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
            partial.replace(self.run.health)


def read(run: RunDirectory, pid: int) -> dict[str, Any] | None:
    """Return what the watch over the VMM `pid` wrote last, without the pid; None where nobody watches it."""
    try:
        content = json.loads(run.health.read_text(encoding="utf-8"))
        return content if content.pop("pid") == pid else None
    except (OSError, ValueError, AttributeError, KeyError):
        return None


def ask(health: Health, pidfd: int) -> Probe:
    """Return how the guest answers; _EndedError as soon as the VMM ends."""
    try:
        answer = _exchange(health, pidfd, monotonic() + health.probe_seconds)
    except TimeoutError:
        return Probe(SILENT, f"no answer within {health.probe_seconds:.0f} s")
    except OSError as error:
        return Probe(REFUSED if error.errno in _REFUSALS else SILENT, reason(error))
    if not answer:
        return Probe(REFUSED, "it closed the connection without an answer")
    words = answer.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        return Probe(REFUSED, "it does not speak HTTP")
    if words[1] == b"200":
        return Probe(SERVED)
    return Probe(REFUSED, f"it answered {one_line(words[1][:8].decode('ascii', 'replace'))}")


def _exchange(health: Health, pidfd: int, deadline: float) -> bytes:
    """Return the beginning of the answer to a GET, empty when the connection was closed instead."""
    head = f"GET {health.path} HTTP/1.0\r\nHost: {health.address}:{health.port}\r\n\r\n".encode("ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        code = connection.connect_ex((health.address, health.port))
        if code == errno.EINPROGRESS:
            _wait(connection, select.POLLOUT, pidfd, deadline)
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        connection.sendall(head)  # a few hundred bytes fit into any send buffer
        answer = b""
        while b"\n" not in answer and len(answer) < _ANSWER_LIMIT:
            _wait(connection, select.POLLIN, pidfd, deadline)
            part = connection.recv(_ANSWER_LIMIT)
            if not part:
                break
            answer += part
        return answer


def _wait(connection: socket.socket, event: int, pidfd: int, deadline: float) -> None:
    """Wait until the connection is ready; TimeoutError after the deadline, _EndedError when the VMM ends."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(connection, event)
    ready = [descriptor for descriptor, _event in poller.poll(max(0.0, deadline - monotonic()) * 1000)]
    if pidfd in ready:
        raise _EndedError
    if not ready:
        raise TimeoutError


def _pause(seconds: float, pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if poller.poll(max(0.0, seconds) * 1000):
        raise _EndedError
