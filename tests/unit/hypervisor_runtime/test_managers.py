"""Bringing a runtime into its state: with a real process in place of a virtual machine, a launcher that behaves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.consoles import failure, plain, size, tail
from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_health import wait_until_healthy
from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_managers import (
    RUNNING,
    STARTING,
    STOPPED,
    DirectManager,
    LaunchError,
)

# Behaves as the launcher does towards its caller: pid file, exit codes, readiness, one line on standard error.
LAUNCHER = """\
#!{python}
import json, os, signal, socket, sys, time
run = os.path.join(os.environ["VLLMD_HYPERVISOR_RUN_DIRPATH"], os.environ["VLLMD_HYPERVISOR_NAME"])
pid_file = os.path.join(run, "pid")
def pid():
    try:
        number = int(open(pid_file).read())
        os.kill(number, 0)
        return None if open(f"/proc/{{number}}/stat").read().rpartition(")")[2].split()[0] == "Z" else number
    except (OSError, ValueError):
        return None
verb = sys.argv[1]
if verb == "status":
    print(json.dumps({{"pid": pid(), "message": "no"}}))
    sys.exit(0 if pid() else 3)
if verb == "stop":
    if pid() is None:
        sys.exit(3)
    os.kill(pid(), signal.SIGTERM)
    while pid():
        time.sleep(0.01)
    sys.exit(0)
if os.environ.get("VLLMD_HYPERVISOR_CPU_COUNT") == "four":
    print("vllmd-hypervisor: CPU_COUNT: four is no number", file=sys.stderr)
    sys.exit(2)
open(pid_file, "w").write(str(os.getpid()))
print("guest: up", flush=True)
if os.environ.get("VLLMD_HYPERVISOR_DEBUG") != "silent":
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"STATUS=up\\nREADY=1", "\\0" + os.environ["NOTIFY_SOCKET"][1:])
time.sleep(60)
"""


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[DirectManager]:
    """A manager of a runtime `one` that is not running; stopped again at the end."""
    launcher = tmp_path / "launcher"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    (tmp_path / "one.env").write_text('VLLMD_HYPERVISOR_NAME="one"\n')
    manager = DirectManager(launcher, tmp_path / "one.env", tmp_path / "run/one", tmp_path / "one.log", None)
    yield manager
    if (tmp_path / "run/one").exists():
        manager.stop()
        with_child_reaped()


def with_child_reaped() -> None:
    """Collect ended children, as the init process would."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


def test_starts_observes_and_stops(direct: DirectManager) -> None:
    assert direct.observe() == (STOPPED, None)
    direct.start(timeout=20)
    state, pid = direct.observe()
    assert state == RUNNING
    assert pid is not None
    assert os.getsid(pid) == pid  # detached: no signal for us reaches it
    assert tail(direct.log_path, 5) == ["guest: up"]
    direct.stop()
    assert direct.observe() == (STOPPED, None)


def test_a_refused_start_gives_the_launchers_line(direct: DirectManager, tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text("vllmd-hypervisor: of an earlier start\n")
    (tmp_path / "one.env").write_text("VLLMD_HYPERVISOR_CPU_COUNT=four\n")
    with pytest.raises(LaunchError, match=r"^did not start: CPU_COUNT: four is no number$"):
        direct.start(timeout=20)


def test_a_start_that_never_gets_ready_is_stopped(direct: DirectManager, tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("VLLMD_HYPERVISOR_DEBUG=silent\n")
    with pytest.raises(LaunchError, match="was not ready within 1 s, so it was stopped"):
        direct.start(timeout=1)
    assert direct.observe() == (STOPPED, None)


def test_a_start_without_environment_file_or_user_is_one_line(direct: DirectManager, tmp_path: Path) -> None:
    nobody = DirectManager(tmp_path / "launcher", tmp_path / "one.env", tmp_path / "run/one", tmp_path / "l", "no-such")
    with pytest.raises(LaunchError, match="there is no user no-such on this host"):
        nobody.start(timeout=1)
    (tmp_path / "one.env").unlink()
    with pytest.raises(LaunchError, match=r"its environment file .*one.env does not exist"):
        direct.start(timeout=1)


def test_without_a_launcher_nothing_runs(tmp_path: Path) -> None:
    manager = DirectManager(tmp_path / "none", tmp_path / "e", tmp_path / "run/one", tmp_path / "log", None)
    assert manager.observe() == (STOPPED, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;32mok\x1b[0m\r\n", "ok\n"),
        ("\x1b]0;title\x07x\x1b(By", "xy"),
        ("a\tb\x00\x7f", "a\tb"),
        ("[  OK  ] Started\n", "[  OK  ] Started\n"),
    ],
)
def test_consoles_are_readable(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_tail_of_a_long_console_reads_its_end_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 1_000_000 + b"\none\n\n\xfftwo\n")
    assert tail(log, 2) == ["one", "\ufffdtwo"]
    assert tail(tmp_path / "missing", 2) == []


class FakeManager:
    """Stands for a virtual machine that is in one state for ever."""

    started_marker = Path("/nonexistent")
    looks = 0

    def __init__(self, state: str, log_path: Path, *, restarts: bool = False) -> None:
        self.state, self.log_path, self.restarts = state, log_path, restarts

    def observe(self) -> tuple[str, int | None]:
        """Return the state."""
        return self.state, None

    def ends(self) -> tuple[int, str]:
        """Return how often it ended: one more time at every look where `restarts` is set."""
        self.looks += self.restarts
        return self.looks, "watchdog: one did not serve" if self.looks else ""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answers 503 twice, then 200; /never always 503."""

    class Handler(BaseHTTPRequestHandler):
        answers = iter([503, 503])

        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/never" else next(self.answers, 200))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    base = "ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_health."
    monkeypatch.setattr(base + "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(base + "_OBSERVE_SECONDS", 0.2)


def test_health_is_waited_for(server: HTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/health"
    assert wait_until_healthy(url, 10, FakeManager(RUNNING, tmp_path / "log")) < 5


def test_a_guest_that_never_serves_is_told_with_its_console(server: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Kernel panic - not syncing\n")
    url = f"http://127.0.0.1:{server.server_port}/never"
    with pytest.raises(LaunchError) as raised:
        wait_until_healthy(url, 1, FakeManager(RUNNING, tmp_path / "log"))
    assert f"{url} was not healthy within 1 s (it answered 503)" in str(raised.value)
    assert str(raised.value).endswith("ends:\n  Kernel panic - not syncing")


def test_the_wait_ends_with_the_virtual_machine(tmp_path: Path) -> None:
    with pytest.raises(
        LaunchError, match=r"it ended after 0 s, before http://127.0.0.1:1/health answered; .* is empty"
    ):
        wait_until_healthy("http://127.0.0.1:1/health", 60, FakeManager(STOPPED, tmp_path / "log"))


def test_the_wait_ends_when_systemd_starts_it_again(tmp_path: Path) -> None:
    with pytest.raises(
        LaunchError,
        match=r"it ended after 0 s, before .* answered, and is started again \(watchdog: one did not serve\)",
    ):
        wait_until_healthy("http://127.0.0.1:1/health", 60, FakeManager(STARTING, tmp_path / "log", restarts=True))


def test_the_wait_ends_when_the_guest_gave_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = "ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_health."
    monkeypatch.setattr(base + "_GIVE_UP_SECONDS", 0.3)
    log = tmp_path / "log"
    log.write_text("vllmd: FAILED: an earlier boot\n")
    earlier = size(log)
    with log.open("a") as stream:
        stream.write("vllmd: FAILED: runtime.json: name is missing\r\n")
    with pytest.raises(LaunchError, match=r"its guest gave up: runtime.json: name is missing; its console log"):
        wait_until_healthy("http://127.0.0.1:1/health", 60, FakeManager(RUNNING, log), earlier)


def test_failures_are_read_as_the_guest_means_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert (size(log), failure(log, 0)) == (0, "")
    log.write_text("vllmd: FAILED: an earlier boot\n")
    assert failure(log, 0) == "an earlier boot"
    assert failure(log, size(log)) == ""
    assert failure(log, 10**9) == "an earlier boot", "the log was rotated since"
    with log.open("a") as stream:
        stream.write("[   9.1] vllmd: engine started\n")
    assert failure(log, 0) == ""
