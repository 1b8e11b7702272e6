"""Small decisions of the engine's start, and what identifies a model."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ELEMENTS

HEADER = "Iface\tDestination\tGateway\tFlags\n"


def test_a_default_route_is_told_from_a_link_route(engine: ModuleType) -> None:
    link = "eth0\t0002000A\t00000000\t0001\n"
    assert not engine.has_default_route(HEADER)
    assert not engine.has_default_route(HEADER + link)
    assert engine.has_default_route(HEADER + link + "eth0\t00000000\t0202000A\t0003\n")


def test_a_models_digest_is_its_files_and_their_names(models: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        (directory / "sub").mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "sub/weights").write_bytes(b"1")
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").chmod(0o600)
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").rename(second / "sub/weight")
    assert models.tree_digest(first) != models.tree_digest(second)


@pytest.fixture
def given(engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The options that configure.py wrote, for a model that the cache does not have."""
    monkeypatch.setattr(engine, "CONFIG", str(tmp_path / "given.yaml"))
    monkeypatch.setattr(engine, "RUN", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VLLMD_MODEL_SOURCE", raising=False)
    (tmp_path / "given.yaml").write_text(json.dumps({"model": "org/m", "port": 8000}))
    return tmp_path


def test_what_was_chosen_is_said_and_written(
    engine: ModuleType, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VLLMD_HARDWARE_PROFILE", raising=False)
    assert engine.choose() == str(given / "engine.yaml")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("vllmd: profile=none; no profile: cannot read /usr/lib/vllmd/profiles.json")
    assert json.loads((given / "engine.yaml").read_text())["port"] == 8000


def test_a_refusal_is_one_line_and_a_status_of_its_own(
    engine: ModuleType, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLMD_HARDWARE_PROFILE", "nvidia-a10")
    with pytest.raises(SystemExit) as ended:
        engine.choose()
    assert ended.value.code == engine.REFUSED
    assert capsys.readouterr().out.startswith("vllmd: FAILED: ")
    assert not (given / "engine.yaml").exists()
    unit = (ELEMENTS / "vllmd-runtime/static/usr/lib/systemd/system/vllm.service").read_text(encoding="utf-8")
    assert f"RestartPreventExitStatus={engine.REFUSED}\n" in unit


@pytest.mark.parametrize(
    ("result", "status", "line"),
    [
        ("success", "0", ""),
        ("exit-code", "78", ""),
        ("exit-code", "1", "vllmd: FAILED: the engine ended: exit-code (exited 1)\n"),
        (
            "watchdog",
            "9",
            "vllmd: FAILED: the engine ended: it no longer answered /health, so the watchdog killed it\n",
        ),
        ("oom-kill", "9", "vllmd: FAILED: the engine ended: the kernel killed it because memory ran out (oom-kill)\n"),
    ],
)
def test_an_engine_that_ended_says_so_unless_it_did_itself(result: str, status: str, line: str) -> None:
    script = ELEMENTS / "vllmd-runtime/static/usr/lib/vllmd/engine-stopped"
    environment = {"SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": status}
    done = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, line, "")


class _EndError(Exception):
    """Ends a watch that would not end."""


def test_the_watchdog_is_asked_for_with_the_first_good_answer_and_fed_with_each(
    engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False, True, True, False, True])

    def answer(port: int) -> bool:
        assert port == 8000
        try:
            return next(answers)
        except StopIteration:
            raise _EndError from None

    monkeypatch.setattr(engine, "ASK_SECONDS", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        with pytest.raises(_EndError):
            engine.watch(8000, answer)
        channel.setblocking(False)
        heard = [channel.recv(100) for _ in range(3)]
        with pytest.raises(BlockingIOError):
            channel.recv(100)
    assert heard == [b"WATCHDOG_USEC=90000000", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_without_systemd_nobody_is_told(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    engine.tell_systemd("WATCHDOG=1")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("NOTIFY_SOCKET", "@vllmd-nobody-listens-there")
    engine.tell_systemd("WATCHDOG=1")
    assert capsys.readouterr().out == "vllmd: systemd cannot be told WATCHDOG=1: Connection refused\n"


def test_the_guest_acts_before_the_host_does(engine: ModuleType) -> None:
    """The host restarts the virtual machine after 120 s without an answer (role hypervisor's default)."""
    assert engine.WATCHDOG_SECONDS < 120


@pytest.mark.parametrize(("status", "healthy"), [(b"200 OK", True), (b"503 Service Unavailable", False)])
def test_the_engine_is_asked_over_a_bare_socket(
    element_script: Callable[[str], ModuleType], status: bytes, healthy: bool
) -> None:
    module = element_script("vllmd-runtime/static/usr/lib/vllmd/healthy.py")

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4096) == module.REQUEST
            connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        assert module.healthy(port) is healthy
        thread.join()
    assert not module.healthy(port)


@pytest.mark.parametrize(
    ("path", "status", "shown"),
    [
        ("/health", 200, False),
        ("/metrics", 200, False),
        ("/health", 503, True),
        ("/v1/completions", 200, True),
    ],
)
def test_the_console_does_not_fill_with_questions_for_the_health(
    engine: ModuleType, path: str, status: int, shown: bool
) -> None:
    arguments = ("127.0.0.1:40000", "GET", path, "1.0", status)
    text = '%s - "%s %s HTTP/%s" %d'
    assert engine.is_news(logging.LogRecord("uvicorn.access", logging.INFO, "", 0, text, arguments, None)) is shown
    assert engine.is_news(logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "started", None, None))
