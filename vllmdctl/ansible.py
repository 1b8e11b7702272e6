# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run playbooks: the command, its environment, its events and its log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from . import places
from .ansible_play import Play, by_hand, settings
from .errors import INTERRUPTED, CtlError
from .outcome import Outcome
from .progress import Screen, plain

_POLL_SECONDS = 0.1
_KEPT_LOGS = 100
#: What the interruptions of one run are answered with: a request, an order, an end.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_LAST_WORDS_SECONDS = 2.0  # a connection that ssh keeps may hold the pipe open for longer than the playbook runs


def run(play: Play, names: Sequence[str], verb: str, *, quiet: bool = False, **variables: Any) -> Outcome:
    """Run the playbooks of the verbs ``names`` as one, show how they go on, and return how they ended.

    ``quiet`` shows a sign of life only. Raises CtlError when nothing could be run, or the user interrupted it.
    """
    become_root(play.inventory)
    command = play.command(names, variables)
    logs = places.make_private_directory(places.state_directory() / "logs")
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}-{verb.replace(' ', '-')}"
    outcome = Outcome(verb, log=logs / f"{stem}.log", events=logs / f"{stem}.jsonl")
    screen = Screen(quiet)
    if play.verbose:
        screen.line(by_hand(command))
    environment = {**os.environ, **settings(), **_callbacks(outcome.events, screen.colour)}
    with contextlib.suppress(OSError):
        _prune(logs)
    try:
        with screen, os.fdopen(_private(outcome.log), "w", encoding="utf-8") as log, _Signals() as signals:
            log.write(f"{by_hand(command)}\n")
            outcome.status = _run(command, environment, log, outcome=outcome, screen=screen, signals=signals)
    except OSError as error:
        raise CtlError(f"cannot run {verb}: {error.filename or ''} {error.strerror or error}") from None
    if signals.count:
        raise CtlError(
            f"{verb} was interrupted; what is done stays done, and the same command goes on from there; "
            f"log {outcome.log}",
            INTERRUPTED,
        )
    return outcome


def _run(
    command: list[str],
    environment: dict[str, str],
    log: IO[str],
    *,
    outcome: Outcome,
    screen: Screen,
    signals: _Signals,
) -> int:
    """Run the command to its end and return its exit status."""
    lines: SimpleQueue[str] = SimpleQueue()
    # A process group of its own: Ctrl-C reaches this process, which passes it on once, and waits.
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    sent, deadline = 0, float("inf")
    while True:
        while sent < min(signals.count, len(_SIGNALS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, _SIGNALS[sent])
            sent += 1
            screen.status("ending it; interrupt again to press, a third time to kill")
        has_ended = process.poll() is not None
        for line in _take(lines):
            log.write(plain(line) + "\n")
            screen.line(line, outcome)
            outcome.said.append(plain(line))
        log.flush()
        outcome.read_events()
        screen.progress(outcome)
        if has_ended and deadline == float("inf"):
            deadline = time.monotonic() + _LAST_WORDS_SECONDS
        if has_ended and lines.empty() and (not reader.is_alive() or time.monotonic() > deadline):
            outcome.read_events()
            return process.returncode


def _read(stream: IO[str] | None, lines: SimpleQueue[str]) -> None:
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in stream or ():
            lines.put(line.rstrip("\n"))


def _take(lines: SimpleQueue[str]) -> Iterator[str]:
    """Yield what has been said, after waiting a moment for it."""
    with contextlib.suppress(Empty):
        yield lines.get(timeout=_POLL_SECONDS)
        while True:
            yield lines.get_nowait()


class _Signals:
    """Counts interruptions instead of dying of them."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, _number: int, _frame: object) -> None:
        self.count += 1


def _callbacks(events: Path, colour: bool) -> dict[str, str]:
    enabled = [each for each in os.environ.get("ANSIBLE_CALLBACKS_ENABLED", "").split(",") if each]
    return {
        "ANSIBLE_CALLBACKS_ENABLED": ",".join([*enabled, "vllmd.platform.events"]),
        "VLLMD_EVENTS_PATH": str(events),
        "PYTHONUNBUFFERED": "1",
        **({"ANSIBLE_FORCE_COLOR": "1"} if colour else {"ANSIBLE_NOCOLOR": "1"}),
    }


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _prune(logs: Path) -> None:
    """Remove the oldest logs. Raises OSError."""
    stems = sorted({path.with_suffix("") for path in logs.glob("*.log")})
    for stem in stems[: max(0, len(stems) - _KEPT_LOGS)]:
        for suffix in (".log", ".jsonl"):
            stem.with_suffix(suffix).unlink(missing_ok=True)


def is_local(inventory: Path) -> bool:
    """Return whether the inventory has hosts that are this machine itself, without starting Ansible to know."""
    files = [inventory] if inventory.is_file() else [each for each in inventory.rglob("*") if each.is_file()]
    for path in files:
        if path.stat().st_size > 1_000_000 or path.suffix not in ("", ".yml", ".yaml", ".ini", ".json"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace").replace("ansible.builtin.", "").replace(" ", "")
        if "ansible_connection:local" in text or "ansible_connection=local" in text:
            return True
    return False


def become_root(inventory: Path) -> None:
    """Go on as root, by sudo, when the inventory's hosts are this machine itself: its packages and units are root's."""
    if os.geteuid() == 0 or not is_local(inventory):
        return
    here = Path(__file__).resolve().parent.parent
    code = f"import sys; sys.path.insert(0, {str(here)!r}); from vllmdctl.main import main; sys.exit(main())"
    kept = {
        "PATH": os.environ.get("PATH", os.defpath),
        "XDG_CONFIG_HOME": str(places.environment_directory().parent),
        "XDG_STATE_HOME": str(places.state_directory().parent),
    }
    kept_settings = [f"{name}={value}" for name, value in kept.items()]
    try:
        # No shell in between, on purpose.
        os.execvp("sudo", ["sudo", "env", *kept_settings, sys.executable, "-c", code, *sys.argv[1:]])  # noqa: S606
    except OSError:
        raise CtlError(f"{inventory} is about this machine itself, which needs root; run it as root") from None
