"""Logs that are followed and a console that is talked to, on this machine and as ssh would be called."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vllmdctl.ansible_play import Play
from vllmdctl.errors import CtlError
from vllmdctl.reach import follow, host_command

from .conftest import ROOT, Ctl

HOSTS = """\
all:
  hosts:
    here: {ansible_connection: local}
    plain:
    gpu-1:
      ansible_host: 192.0.2.7
      ansible_user: deploy
      ansible_port: 2222
      ansible_become: true
      ansible_ssh_private_key_file: /keys/one
      ansible_ssh_common_args: -o ProxyJump=jump.example.com
    gpu-2: {ansible_ssh_host: 192.0.2.8, ansible_ssh_user: me, ansible_ssh_port: 23, ansible_private_key_file: /two}
    box: {ansible_connection: community.docker.docker}
"""
SSH, JUMP = ["ssh", "-o", "BatchMode=yes"], ["-o", "ProxyJump=jump.example.com"]


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("here", ["tail", "-F", "a b"]),
        ("plain", [*SSH, "--", "plain", "tail -F 'a b'"]),
        (
            "gpu-1",
            [*SSH, "-p", "2222", "-i", "/keys/one", *JUMP, "--", "deploy@192.0.2.7", "sudo -n tail -F 'a b'"],
        ),
        ("gpu-2", [*SSH, "-p", "23", "-i", "/two", "--", "me@192.0.2.8", "tail -F 'a b'"]),
    ],
)
def test_the_way_to_a_host_is_the_inventorys(home: Path, host: str, command: list[str]) -> None:
    (home / "hosts.yml").write_text(HOSTS)
    assert host_command(Play(home / "hosts.yml"), host, ["tail", "-F", "a b"]) == command


def test_other_connections_are_refused_in_one_line(home: Path) -> None:
    (home / "hosts.yml").write_text(HOSTS)
    with pytest.raises(CtlError, match=r"box is reached by community\.docker\.docker"):
        host_command(Play(home / "hosts.yml"), "box", ["true"])


def test_lines_are_named_when_several_speak_and_are_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    follow({"one": ["printf", "a\\033[2Jb\\n"]})
    assert capfd.readouterr().out == "ab\n"
    follow({"a": ["echo", "1"], "long": ["echo", "2"]})
    assert sorted(capfd.readouterr().out.splitlines()) == ["a     1", "long  2"]


def test_a_command_that_fails_says_why_in_one_line() -> None:
    with pytest.raises(CtlError, match=r"^one: cat: /nowhere: No such file or directory$"):
        follow({"one": ["cat", "/nowhere"]})


def test_following_ends_with_an_interruption_and_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("first\n")
    code = f"from vllmdctl.reach import follow; follow({{'x': ['tail', '-n', '5', '-F', {str(log)!r}]}})"
    # What a shell runs in the background inherits that interruptions are ignored, and so would what it starts.
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    with log.open("a") as stream:
        stream.write("second\n")
    assert process.stdout.readline() == "second\n"
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    left = subprocess.run(["pgrep", "-f", str(log)], check=False, capture_output=True, text=True).stdout
    assert left == ""


def test_a_console_is_talked_to_until_the_escape_key(home: Path, tmp_path: Path) -> None:
    (home / "hosts.yml").write_text(HOSTS)
    path, heard = tmp_path / "console.sock", bytearray()

    def guest() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            ready.set()
            connection, _address = server.accept()
            with connection:
                connection.sendall(b"login: ")
                while data := connection.recv(100):
                    heard.extend(data)
                    connection.sendall(data.upper())

    ready = threading.Event()
    thread = threading.Thread(target=guest, daemon=True)
    thread.start()
    assert ready.wait(10)
    code = (
        "import sys; from pathlib import Path; from vllmdctl.ansible_play import Play;"
        "from vllmdctl.reach import attach;"
        "attach(Play(Path(sys.argv[1])), 'here', sys.argv[2], 'x')"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, str(home / "hosts.yml"), str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, process_group=0)
    os.close(theirs)
    said = _read_until(ours, b"login: ")
    assert b"attached to x on here; Ctrl-] ends it" in said
    os.write(ours, b"root\x03\r")  # Ctrl-C is the guest's
    assert _read_until(ours, b"ROOT\x03\r").endswith(b"ROOT\x03\r")
    os.write(ours, b"\x1d")
    assert process.wait(timeout=60) == 0
    thread.join(timeout=60)
    assert bytes(heard) == b"root\x03\r"
    os.close(ours)


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    found, deadline = b"", time.monotonic() + 60
    while wanted not in found:
        assert time.monotonic() < deadline, found
        found += os.read(descriptor, 1000)
    return found


def test_what_ends_answers_is_never_meant_by_silence(ctl: Ctl, inventory: Path) -> None:
    for verb in ("stop", "restart"):
        done = ctl("runtimes", verb)
        assert done.returncode == 64
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: say which runtimes to {verb}, or --all")
    assert "--all is all of them" in ctl("runtimes", "stop", "x", "--all").stderr


def test_what_has_no_end_is_no_json(ctl: Ctl, inventory: Path) -> None:
    assert "can't be printed as json" in ctl("runtimes", "console", "x", "--attach", "-o", "json").stderr
    assert "can't be printed as json" in ctl("runtimes", "logs", "x", "-f", "-o", "json").stderr
