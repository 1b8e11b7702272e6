# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Commands on a host that go on until somebody ends them, which no playbook can show: logs as they come, and a console.

They take the way that the inventory describes: this machine itself, or ssh with the inventory's user, port and key.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from .ansible_play import Play
from .errors import UNREACHABLE, CtlError
from .progress import plain

_ESCAPE = b"\x1d"  # Ctrl-], as telnet and virsh have it
_CHUNK = 65536
_SSH_FAILED = 255

#: Joins standard input and output with a unix socket until one of them ends: a console has one reader at a time, so
#: none is left behind. Runs on the host, where Python is because Ansible needs it.
_RELAY = """\
import os, select, socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error.strerror}")
print("connected", file=sys.stderr, flush=True)
while True:
    for each in select.select([s, 0], [], [])[0]:
        data = os.read(0, 65536) if each == 0 else s.recv(65536)
        if not data:
            sys.exit()
        if each == 0:
            s.sendall(data)
        while each == s and data:
            data = data[os.write(1, data):]
"""


def host_command(play: Play, host: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` on a host of the inventory, as root. Raises CtlError."""
    from .commands.hosts import host_variables

    variables = host_variables(play, host)
    connection = str(variables.get("ansible_connection", "ssh")).removeprefix("ansible.builtin.")
    if connection == "local":
        return list(command)
    if connection != "ssh":
        raise CtlError(f"{host} is reached by {connection}, and only ssh and local can be followed; leave --follow out")

    def said(name: str) -> str:
        """Return a variable by its newer or its older name (ansible.builtin.ssh)."""
        return str(variables.get(f"ansible_{name}") or variables.get(f"ansible_ssh_{name}") or "")

    become = [] if str(variables.get("ansible_become", False)).lower() not in ("true", "yes", "1") else ["sudo", "-n"]
    options = ["-o", "BatchMode=yes"]
    options += ["-p", said("port")] if said("port") else []
    options += ["-i", os.path.expanduser(said("private_key_file"))] if said("private_key_file") else []  # noqa: PTH111 -- as ssh has it
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        options += shlex.split(str(variables.get(name) or ""))
    address = said("host") or host
    target = f"{said('user')}@{address}" if said("user") else address
    return ["ssh", *options, "--", target, shlex.join([*become, *command])]


def follow(commands: dict[str, list[str]]) -> None:
    """Show what the commands say, line by line, until they end or somebody interrupts.

    Names stand before the lines when there are several. Raises CtlError when a host can't be reached or one fails.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    shown = threading.Lock()
    try:
        for name, command in commands.items():
            # Groups of their own: Ctrl-C ends this program, and this program ends them.
            running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                process_group=0,
            )
        width = max(map(len, commands))
        readers = []
        for name, process in running.items():
            before = f"{name:{width}}  " if len(commands) > 1 else ""
            readers.append(threading.Thread(target=_copy, args=(process.stdout, before, shown), daemon=True))
            readers[-1].start()
        for reader in readers:
            while reader.is_alive():
                reader.join(0.2)
        for name, process in running.items():
            process.wait()
            if process.returncode:
                _failed(name, process.returncode, process.stderr)
            for line in process.stderr or ():  # why it ended, such as journalctl without inotify watches
                print(f"{name}: {plain(line).strip()}", file=sys.stderr, flush=True)
    except FileNotFoundError as error:
        raise CtlError(f"{error.filename} is not installed here; vllmdctl initialize environment") from None
    finally:
        for process in running.values():
            _end(process)


def _copy(stream: IO[str] | None, before: str, shown: threading.Lock) -> None:
    for line in stream or ():
        with shown:
            print(f"{before}{plain(line)}", flush=True)


def _failed(name: str, status: int, stderr: IO[str] | None) -> None:
    said = [line.strip() for line in (stderr.read() if stderr else "").splitlines() if line.strip()]
    why = plain(said[-1]) if said else f"ended with {status}"
    raise CtlError(f"{name}: {why}", UNREACHABLE if status == _SSH_FAILED else 1)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        process.wait()


def attach(play: Play, host: str, socket: str, name: str) -> None:
    """Join this terminal with a console's socket on a host, until Ctrl-] is pressed or the other side ends.

    Raises CtlError when the host or the socket can't be reached.
    """
    command = host_command(play, host, ["python3", "-c", _RELAY, socket])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        lines: list[str] = []
        try:
            detached = _connected(process, lines)
            if detached:
                print(f"attached to {name} on {host}; Ctrl-] ends it", file=sys.stderr, flush=True)
                with _raw(0):
                    detached = _join(process)
        finally:
            _end(process)
        rest = process.stderr.read() if process.stderr else b""
        said = "\n".join([*lines, rest.decode("utf-8", "replace")]).strip()
    if detached:
        print("\ndetached", file=sys.stderr, flush=True)
    elif process.returncode:
        why = plain(said.splitlines()[-1]) if said else f"ended with {process.returncode}"
        raise CtlError(f"{name} on {host}: {why}", UNREACHABLE if process.returncode == _SSH_FAILED else 1)


def _connected(process: subprocess.Popen[bytes], lines: list[str]) -> bool:
    """Wait until the relay has the socket, and return whether it has; what was said before goes into ``lines``."""
    for line in process.stderr or ():
        if line.strip() == b"connected":
            return True
        lines.append(line.decode("utf-8", "replace").rstrip())
    process.wait()
    return False


def _join(process: subprocess.Popen[bytes]) -> bool:
    """Copy both ways; return whether the user left, rather than the other side."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("started with pipes")
    theirs, ours = process.stdout.fileno(), process.stdin.fileno()
    sources = [theirs, 0]
    while True:
        for source in select.select(sources, [], [])[0]:
            data = os.read(source, _CHUNK)
            if source == theirs:
                if not data:
                    process.wait()
                    return False
                _write(1, data)
                continue
            if not data:  # the end of what was piped in
                sources.remove(0)
                continue
            typed, escape, _rest = data.partition(_ESCAPE)
            try:
                _write(ours, typed)
            except BrokenPipeError:
                sources.remove(0)
            if escape:
                return True


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Let every key through to the guest, Ctrl-C included; without a terminal there is nothing to do."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
