# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The two ways a runtime's virtual machine is kept: by a systemd unit, or by the launcher alone."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from ansible_collections.vllmd.platform.plugins.module_utils import env_files
from ansible_collections.vllmd.platform.plugins.module_utils.consoles import tail

RUNNING, STARTING, STOPPED = "running", "starting", "stopped"
_PROGRAM = "vllmd-hypervisor"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STATUS_RUNNING, _STATUS_STOPPED = 0, 3  # the launcher's exit codes, those of an init script
_STOP_SECONDS = 120  # the launcher's own stop time-out is below; this ends a wait that has no end
_CONSOLE_LINES = 15
_POLL_SECONDS = 0.2
_MARGIN_SECONDS = 30  # systemd bounds the start of an unwatched unit itself, and says why


class LaunchError(Exception):
    """A start or stop that failed: what, and the reason the launcher gave. May go on with lines of the console."""


class Manager(Protocol):
    """Starts, stops and observes one runtime."""

    log_path: Path
    started_marker: Path

    def observe(self) -> tuple[str, int | None]:
        """Return RUNNING, STARTING or STOPPED, and the virtual machine's pid if there is one."""

    def ends(self) -> tuple[int, str]:
        """Return how often it ended by itself and was started again since it was told to start, and the last reason."""

    def sources(self) -> list[Path]:
        """Return the files of this manager's own that a start depends on."""

    def enabled(self) -> bool | None:
        """Return whether it starts at boot; None where nothing could start it."""

    def enable(self, wanted: bool) -> None:
        """Start it at boot, or not."""

    def start(self, timeout: int) -> None:
        """Start it; LaunchError unless it runs within ``timeout`` seconds."""

    def stop(self) -> None:
        """Stop it, gracefully if the guest does its part."""


def _launcher_lines(text: str) -> str:
    """Return what the launcher said in ``text``, joined; all of its last lines when it said nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.partition(f"{_PROGRAM}: ")[2] for line in lines if line.startswith(f"{_PROGRAM}: ")]
    return "; ".join(said or lines[-3:]) or "it said nothing"


class SystemdManager:
    """A runtime that is a systemd service."""

    def __init__(self, unit: str, scope: str, run_path: Path, log_path: Path) -> None:
        self.unit = unit
        self.log_path = log_path
        self.started_marker = run_path / "pid"
        self._health_path = run_path / "health.json"
        self._user = scope == "user"
        self._environment = dict(os.environ)
        if self._user:
            self._environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def observe(self) -> tuple[str, int | None]:
        """Return the state and pid that systemd reports; a restart in progress counts as STARTING.

        A watched unit is active when its guest serves; its virtual machine runs long before.
        """
        return self._state(self._show())

    def ends(self) -> tuple[int, str]:
        """Return how often systemd started it again by itself, one that it waits to start included, and why."""
        shown = self._show()
        count = int(shown.get("NRestarts") or 0) + self._waits_to_restart(shown)
        return count, (f"{shown.get('Result')}: {self._journal(time.time() - 60)}" if count else "")

    def sources(self) -> list[Path]:
        """Return the unit file and its drop-ins."""
        shown = self._show()
        return [Path(path) for path in [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()] if path]

    def enabled(self) -> bool:
        """Return whether the unit starts at boot."""
        return self._systemctl("is-enabled", self.unit, timeout=30, check=False).returncode == 0

    def enable(self, wanted: bool) -> None:
        """Start the unit at boot, or not."""
        self._systemctl("enable" if wanted else "disable", self.unit, timeout=30)

    def start(self, timeout: int) -> None:
        """Start the unit and wait until its virtual machine runs, which is before the guest of a watched one serves."""
        shown = self._show()
        if shown.get("NeedDaemonReload") == "yes":
            self._systemctl("daemon-reload", timeout=timeout)
        if shown.get("ActiveState") == "failed":
            self._systemctl("reset-failed", self.unit, timeout=timeout)
        began, deadline = time.time(), time.monotonic() + timeout + _MARGIN_SECONDS
        self._systemctl("start", "--no-block", self.unit, timeout=timeout)
        while True:
            shown = self._show()
            state, _pid = self._state(shown)
            if state == RUNNING:
                return
            ended = state == STOPPED and not shown.get("Job")
            if ended or self._waits_to_restart(shown):
                reason = self._journal(began) or f"systemd says {shown.get('Result')}; see systemctl status {self.unit}"
                raise LaunchError(f"{self.unit} did not start: {reason}")
            if time.monotonic() > deadline:
                raise LaunchError(f"{self.unit} does not run after {timeout} s; see systemctl status {self.unit}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop the unit."""
        self._systemctl("stop", self.unit, timeout=_STOP_SECONDS)

    def _state(self, shown: dict[str, str]) -> tuple[str, int | None]:
        active, pid = shown.get("ActiveState", ""), int(shown.get("MainPID") or 0)
        if active in ("inactive", "failed"):
            return STOPPED, None
        runs = active == "active" or (active == "activating" and pid and self._watched_pid() == pid)
        return (RUNNING if runs else STARTING), pid or None

    def _watched_pid(self) -> int | None:
        """Return the virtual machine that the launcher watches; it says so when the guest begins to run."""
        try:
            return int(json.loads(self._health_path.read_text(encoding="utf-8"))["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def _waits_to_restart(shown: dict[str, str]) -> bool:
        return shown.get("SubState", "").startswith("auto-restart")

    def _show(self) -> dict[str, str]:
        names = "ActiveState,SubState,Result,NRestarts,Job,MainPID,NeedDaemonReload,FragmentPath,DropInPaths"
        shown = self._systemctl("show", f"--property={names}", self.unit, timeout=30).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def _journal(self, since: float) -> str:
        """Return why the launcher says it failed since ``since`` (seconds of the epoch)."""
        selector = "--user-unit" if self._user else "--unit"
        command = ["journalctl", f"{selector}={self.unit}", f"--since=@{int(since)}", "--lines=40", "--output=cat"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        return _launcher_lines(result.stdout) if result.stdout.strip() else ""

    def _systemctl(self, *arguments: str, timeout: int, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["systemctl", *(["--user"] if self._user else []), *arguments]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=timeout, env=self._environment
            )
        except subprocess.TimeoutExpired:
            raise LaunchError(f"{' '.join(command)} did not end within {timeout} s; see systemctl list-jobs") from None
        if check and result.returncode != 0:
            raise LaunchError(f"{' '.join(command)} failed: {result.stderr.strip() or result.returncode}")
        return result


class DirectManager:
    """A runtime that the launcher runs without anyone keeping it."""

    def __init__(self, launcher: Path, env_file: Path, run_path: Path, log_path: Path, user: str | None) -> None:
        self.log_path = log_path
        self.started_marker = run_path / "pid"
        self._launcher = launcher
        self._env_file = env_file
        self._run_path = run_path
        self._user = user

    def observe(self) -> tuple[str, int | None]:
        """Return the state and pid that the launcher reports; LaunchError when it cannot tell."""
        if not self._launcher.exists():
            return STOPPED, None
        result = self._run("status", "--json")
        if result.returncode == _STATUS_STOPPED:
            return STOPPED, None
        try:
            report = json.loads(result.stdout)
        except ValueError:
            raise LaunchError(f"its state is unknown: {_launcher_lines(result.stderr + result.stdout)}") from None
        if result.returncode != _STATUS_RUNNING:
            raise LaunchError(f"its state is unknown: {report.get('message')}")
        return RUNNING, report["pid"]

    def ends(self) -> tuple[int, str]:
        """Return none: nothing starts it again."""
        return 0, ""

    def sources(self) -> list[Path]:
        """Return nothing: there is no unit."""
        return []

    def enabled(self) -> None:
        """Return None: nothing starts it at boot."""

    def enable(self, wanted: bool) -> None:
        """Do nothing: nothing starts it at boot."""

    def start(self, timeout: int) -> None:
        """Run the launcher detached and wait for the readiness message that it would send to systemd."""
        if not self._env_file.exists():
            raise LaunchError(f"its environment file {self._env_file} does not exist; run the role that writes it")
        account = self._account()
        groups = os.getgrouplist(account.pw_name, account.pw_gid) if account else None
        self._prepare_paths(account)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as readiness:
            address = f"{_PROGRAM}-{secrets.token_hex(8)}"  # abstract: nothing to clean up
            readiness.bind(f"\0{address}")
            readiness.settimeout(0.1)
            with self.log_path.open("ab") as log:
                logged_before = log.tell()
                process = subprocess.Popen(
                    [str(self._launcher), "start"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._variables() | {"NOTIFY_SOCKET": f"@{address}"},
                    start_new_session=True,
                    user=account.pw_uid if account else None,
                    group=account.pw_gid if account else None,
                    extra_groups=groups,
                )
            deadline = time.monotonic() + timeout
            while not self._told_ready(readiness):
                if process.poll() is not None:
                    raise LaunchError(f"did not start: {self._said_since(logged_before)}")
                if time.monotonic() > deadline:
                    self._run("stop")
                    raise LaunchError(f"was not ready within {timeout} s, so it was stopped; see {self.log_path}")

    def stop(self) -> None:
        """Ask the launcher to stop it."""
        result = self._run("stop")
        if result.returncode not in (0, _STATUS_STOPPED):
            raise LaunchError(f"did not stop: {_launcher_lines(result.stderr)}")

    def _variables(self) -> dict[str, str]:
        variables = {"PATH": _PATH, "LANG": "C.UTF-8"}
        if "XDG_RUNTIME_DIR" in os.environ:
            variables["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
        variables["VLLMD_HYPERVISOR_NAME"] = self._run_path.name
        variables["VLLMD_HYPERVISOR_RUN_DIRPATH"] = str(self._run_path.parent)
        if self._env_file.exists():
            variables |= env_files.parse(self._env_file.read_text(encoding="utf-8"), str(self._env_file))
        return variables

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._launcher), *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_STOP_SECONDS, env=self._variables()
            )
        except subprocess.TimeoutExpired:
            raise LaunchError(f"{' '.join(command)} did not end within {_STOP_SECONDS} s") from None

    def _account(self) -> pwd.struct_passwd | None:
        try:
            return pwd.getpwnam(self._user) if self._user else None
        except KeyError:
            raise LaunchError(f"there is no user {self._user} on this host; run the role that makes it") from None

    def _prepare_paths(self, account: pwd.struct_passwd | None) -> None:
        """Make what a unit's RuntimeDirectory= would make, and a log that the user may write."""
        self._run_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._run_path.mkdir(mode=0o700, exist_ok=True)
        self.log_path.touch(mode=0o640)
        if account:
            for path in (self._run_path, self.log_path):
                os.chown(path, account.pw_uid, account.pw_gid)

    @staticmethod
    def _told_ready(readiness: socket.socket) -> bool:
        try:
            return b"READY=1" in readiness.recv(4096).split(b"\n")
        except TimeoutError:
            return False

    def _said_since(self, position: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(position)
            return _launcher_lines(log.read(65536).decode("utf-8", "replace"))


def console_end(manager: Manager) -> str:
    """Return the last lines of the guest's console as the second part of an error message."""
    lines = tail(manager.log_path, _CONSOLE_LINES)
    if not lines:
        return f"its console log {manager.log_path} is empty"
    return f"its console log {manager.log_path} ends:\n" + "\n".join(f"  {line}" for line in lines)
