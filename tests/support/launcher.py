"""Runs the launcher as a user does: as a command, with nothing but an environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.openapi import CHECKOUT

PACKAGE_ROOT = CHECKOUT / "roles/hypervisor/files"
PREFIX = "VLLMD_HYPERVISOR_"
# Runs a program in a network namespace of its own, where it may make interfaces; users get a user namespace with it.
OWN_NETWORK = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net"]

# What the role installs as /usr/local/bin/vllmd-hypervisor, with this checkout's package. `-I`: no user's path or
# PYTHON* variable reaches it; `-S`: no site-packages either.
_STUB = """\
import _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)
import sys
sys.path.insert(0, {root!r})
{extra}
from vllmd_hypervisor.cli import main
sys.exit(main(sys.argv[1:]))
"""
# For stub VMMs on hosts without KVM: the launcher believes that KVM works, and reads devices from a made-up host.
_WITH_KVM = """\
from functools import partial
from pathlib import Path
import vllmd_hypervisor.start as module
module.resolve_machine = partial(module.resolve_machine, root=Path({host!r}), trouble=lambda root: "")
"""


class Launcher:
    """One runtime's environment and the processes started for it; `close` ends what is left of them."""

    def __init__(self, directory: Path, environment: dict[str, str], believed_host: Path | None = None) -> None:
        self.directory = directory
        self.environment = environment
        self.output = directory / "stdout"
        self.errors = directory / "stderr"
        extra = _WITH_KVM.format(host=str(believed_host)) if believed_host else ""
        self.command = [sys.executable, "-IS", "-c", _STUB.format(root=str(PACKAGE_ROOT), extra=extra)]
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def run_directory(self) -> Path:
        """The runtime's directory of lock and sockets."""
        return Path(self.environment[PREFIX + "RUN_DIRPATH"]) / self.environment[PREFIX + "NAME"]

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, at most a minute."""
        environment = self.environment | {PREFIX + name: value for name, value in variables.items()}
        return self.call_with(environment, *arguments)

    def call_with(self, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb with exactly this environment."""
        return subprocess.run(
            [*self.command, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, stdout: Any = None, **variables: str) -> subprocess.Popen[bytes]:
        """Start in the background, output and errors into files."""
        environment = self.environment | {PREFIX + name: value for name, value in variables.items()}
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            process = subprocess.Popen(
                [*self.command, "start"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout or output,
                stderr=errors,
            )
        self.processes.append(process)
        return process

    def status(self) -> dict[str, Any]:
        """Return `status --json`, with its exit code."""
        done = self.call("status", "--json")
        report: dict[str, Any] = json.loads(done.stdout)
        return report | {"exit": done.returncode}

    def wait_for_output(self, text: str, seconds: float = 60) -> str:
        """Wait until the guest's console showed a text; return all of it."""
        self.wait_until(lambda: text in self.output.read_text(errors="replace"), f"{text!r} on the console", seconds)
        return self.output.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Poll until a condition holds; the failure shows what the launcher said."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} in {seconds:.0f} s; {self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        """Return both outputs, for failure messages."""
        outputs = {path.name: path.read_text(errors="replace") for path in (self.output, self.errors) if path.exists()}
        return json.dumps(outputs, indent=1)

    def close(self) -> None:
        """Kill what was started and still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def in_network_of(pid: int) -> list[str]:
    """Return the command prefix that runs a program in the network namespace of a process started with OWN_NETWORK."""
    return [
        "nsenter",
        *([] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]),
        "--net",
        "--target",
        str(pid),
    ]


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def helpers_of(launcher: Launcher) -> list[int]:
    """Return the pids of Python processes that belong to a launcher's runtime."""
    mark = f"{PREFIX}RUN_DIRPATH={launcher.environment[PREFIX + 'RUN_DIRPATH']}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environ.parent.name)
        try:
            if mark in environ.read_bytes().split(b"\0") and pid != os.getpid():
                found.append(pid)
        except OSError:
            continue
    return found
