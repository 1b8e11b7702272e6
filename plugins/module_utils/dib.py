# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run disk-image-create in namespaces of its own, and say in one line why it failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import atomic

#: How much of the log's end is read for the reason of a failure.
TAIL_BYTES = 64 * 1024
_LAST_LINES = 3
#: A cause is looked for near the end only: a download that was retried earlier is none.
_CAUSE_LINES = 80
_LONGEST_REASON = 600


class BuildError(RuntimeError):
    """The build failed; the message is one line: the failing command, its last lines, the log's path."""


@dataclass(frozen=True)
class Build:
    """One call of disk-image-create; the directories exist and are empty, except the cache."""

    program: Path
    elements: Sequence[str]
    elements_paths: Sequence[Path]
    architecture: str
    output_directory: Path
    temporary_directory: Path
    cache_directory: Path
    log_path: Path
    environment: Mapping[str, str]


def command(build: Build) -> list[str]:
    """Return the command that builds, with nothing of it left when either its caller or the command is killed.

    setpriv ties unshare to the calling process, ``--kill-child`` ties the new PID namespace to unshare, and the
    kernel kills every process of a namespace whose first process ends. Mounts live in the private mount namespace
    and go with it.
    """
    namespaces = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
    ]
    image = build.output_directory / "system"
    return [
        *["setpriv", "--pdeathsig", "KILL", "--"],
        *namespaces,
        *["--", str(build.program), "-n", "-a", build.architecture, "-t", "raw", "-o", str(image)],
        *build.elements,
    ]


def environment(build: Build, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the command: little of ``base``, so that a build does not depend on who starts it."""
    kept = {name: value for name, value in base.items() if name.lower() in _PROXIES or name in ("HOME", "USER", "LANG")}
    binaries = str(build.program.parent)
    locks = build.cache_directory / "locks"
    return {
        "HOME": "/root",
        "USER": "root",
        **kept,
        "PATH": f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        **build.environment,
        "ELEMENTS_PATH": ":".join(str(path) for path in build.elements_paths),
        "TMP_DIR": str(build.temporary_directory),
        "TMPDIR": str(build.temporary_directory),
        # A tmpfs would take the guest's gigabytes from memory, and its files could not be found after a kill.
        "DIB_NO_TMPFS": "1",
        # Given any, dib does not add up the tree, whose size the elements find out themselves (vllmd-make-ext4).
        "DIB_IMAGE_SIZE": "1",
        # dib syncs every disk of the builder when it unmounts. A build becomes durable when it is published,
        # and the tree never has to be: for bash, sync is this function.
        "BASH_FUNC_sync%%": "() { :; }",
        "DIB_IMAGE_CACHE": str(build.cache_directory),
        "DIB_LOCKFILES": str(locks),
        "DIB_VLLMD_OUTPUT_DIR": str(build.output_directory),
    }


_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"})


def run(build: Build, base: Mapping[str, str]) -> None:
    """Run the build, its output in the log. However this function ends, no process of the build is left.

    Raises BuildError when the build fails, and lets an exception of a signal handler through.
    """
    atomic.make_directory(build.log_path.parent)
    try:
        with build.log_path.open("wb") as log:
            process = subprocess.Popen(
                command(build),
                env=environment(build, base),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait()
            finally:
                kill_namespace(process)
    except FileNotFoundError as error:
        raise BuildError(f"cannot build: {error.filename} is not installed; install the package util-linux") from None
    if status != 0:
        raise BuildError(f"{reason(tail(build.log_path), status)} (log: {build.log_path})")


def kill_namespace(process: subprocess.Popen[bytes]) -> None:
    """End the build's PID namespace if it still lives, and wait until its last process is gone."""
    if process.poll() is not None:
        return
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    except OSError:
        children = []
    for child in children:
        try:
            os.kill(int(child), signal.SIGKILL)
        except ProcessLookupError:
            continue
    # unshare waits for its child, which ends when the kernel has reaped the whole namespace.
    try:
        process.wait(timeout=10 if children else 0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path: Path) -> str:
    """Return the end of the log as text; empty when it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \|\s?")
_RUNNING = re.compile(r"^dib-run-parts Running (\S+)")
_COMPLETED = re.compile(r"^dib-run-parts (\S+) completed")
_NOISE = re.compile(
    r"^(dib-run-parts( |$)|\++ |Target:|Script +Seconds|-+( -+)?$|\S*(umount|rmdir): "
    r"|Unmount /|INFO diskimage_builder\.)"
)

_NO_SPACE = re.compile(r"No space left on device|You don't have enough free space|Disk quota exceeded")
_NO_NETWORK = re.compile(
    r"Temporary failure (in name resolution|resolving)|Could not resolve|Name or service not known"
    r"|Could not connect to|Connection refused|Network is unreachable|No route to host|Connection timed out"
    r"|Failed to establish a new connection|Max retries exceeded"
    r"|^E: Failed getting release file|^E: Couldn't download|Failed getting release file"
    r"|^E: Failed to fetch|Couldn't resolve host|Failed to connect to"
)


def clean_lines(log: str) -> list[str]:
    """Return the log's lines without timestamps, terminal codes and empty lines."""
    lines = []
    for raw in log.splitlines():
        line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", raw)
        line = _TIMESTAMP.sub("", line.rpartition("\r")[2]).strip()
        if line:
            lines.append(" ".join("".join(char if char.isprintable() else " " for char in line).split()))
    return lines


def failing_script(lines: Sequence[str]) -> str | None:
    """Return the element script (``install.d/50-packages``) that was running at the log's end, or None."""
    running: str | None = None
    for line in lines:
        started = _RUNNING.match(line)
        if started:
            running = "/".join(Path(started.group(1)).parts[-2:])
        elif _COMPLETED.match(line):
            running = None
    return running


def reason(log: str, status: int) -> str:
    """Return one line that says why a build with this log and exit status failed, without the log's path."""
    lines = clean_lines(log)
    script = failing_script(lines)
    where = f"in {script}" if script else "in disk-image-create"
    ending = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    for pattern, sentence in (
        (_NO_SPACE, "the image build ran out of disk space {where}: {line}; free some or set another build directory"),
        (_NO_NETWORK, "the image build cannot reach the network {where}: {line}; check the mirror, proxy and network"),
    ):
        for line in reversed(lines[-_CAUSE_LINES:]):
            if pattern.search(line):
                return sentence.format(where=where, line=line[:_LONGEST_REASON])
    last = [line for line in lines if not _NOISE.match(line)][-_LAST_LINES:]
    said = " | ".join(last)[-_LONGEST_REASON:] if last else "it said nothing"
    return f"the image build failed {where} ({ending}): {said}"
