# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The control plane's programs as they run on a host: what they were started with, whether it has changed since, and a
new start of those that do not read it again.

A program that kubeadm's static pod describes starts again when the kubelet sees another manifest; one that is a systemd
unit of the same name, by systemd.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..kubernetes.errors import NodeError
from ..kubernetes.programs import run
from . import layout

with suppress(ImportError):  # libraries.missing() says so in words
    import yaml

#: What kubelets and operators keep to themselves, and what says to the kubelet that a pod is another one.
ANNOTATION = "vllmd.com/started-for-certificates"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Process:
    """A running program: its process id, its arguments without dashes, and when it started (Unix seconds)."""

    name: str
    pid: int
    arguments: dict[str, str]
    started: float


def processes(root: Path, names: Sequence[str]) -> list[Process]:
    """Return the running programs with these names, containers' among them."""
    found = []
    try:
        ids = sorted(int(path.name) for path in (root / "proc").iterdir() if path.name.isdigit())
    except OSError:
        return []
    for pid in ids:
        try:
            command = (root / f"proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            name = command[0].rpartition("/")[2]
        except OSError:
            continue  # it ended meanwhile
        started = started_at(root, pid) if name in names else None
        if started is not None:
            found.append(Process(name, pid, _arguments(command[1:]), started))
    return found


def started_at(root: Path, pid: int) -> float | None:
    """Return when a process started (Unix seconds), to a second; None when there is none."""
    try:
        lines = (root / "proc/stat").read_text().splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        # The name of the program, in brackets, may hold spaces (proc(5), field 22 is starttime).
        fields = (root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def stale(root: Path, process: Process) -> list[str]:
    """Return the files that the program read when it started, does not read again, and that have changed since."""
    changed = []
    for argument in layout.READ_ONCE.get(process.name, ()):
        path = process.arguments.get(argument, "")
        try:
            # The start of a process is known to a second only.
            if path and (root / path.lstrip("/")).stat().st_mtime + 1 > process.started:
                changed.append(path)
        except OSError:
            continue
    return changed


def restart_stale(root: Path, timeout_seconds: float, *, check: bool = False) -> list[str]:
    """Start those components again that run with what has changed, one after the other, each until it is well.

    Returns their names. Raises NodeError for one that does not come back.
    """
    restarted = []
    for name in layout.COMPONENTS:
        if any(stale(root, process) for process in processes(root, [name])):
            restarted.append(name)
            if not check:
                restart(root, name, timeout_seconds)
    return restarted


def restart(root: Path, name: str, timeout_seconds: float, arguments: Mapping[str, str] | None = None) -> None:
    """Start a component again, with other ``arguments`` where some are given, and wait until the new one is well.

    Raises NodeError, OSError.
    """
    before = {process.pid for process in processes(root, [name])}
    if is_unit(f"{name}.service"):
        if arguments:
            write_manifest(root, name, arguments)
        done = run(["systemctl", "restart", f"{name}.service"], timeout_seconds=timeout_seconds)
        if done.status != 0:
            raise NodeError(f"{name}.service does not start again: {done.last_line}; see 'journalctl -u {name}'")
    else:
        write_manifest(root, name, arguments or {})
    wait(
        lambda: _is_new(processes(root, [name]), before) and is_well(root, name),
        f"{name} to start again with its new certificates and be well",
        timeout_seconds,
    )


def _is_new(found: Sequence[Process], before: set[int]) -> bool:
    return bool(found) and not any(process.pid in before for process in found)


def is_unit(name: str) -> bool:
    """Return whether a systemd unit of this name runs. Raises NodeError."""
    return run(["systemctl", "is-active", "--quiet", name], timeout_seconds=30).status == 0


def write_manifest(root: Path, name: str, arguments: Mapping[str, str]) -> None:
    """Write a component's static pod, with other ``arguments``, so that the kubelet starts it anew.

    Raises NodeError, OSError.
    """
    path = root / layout.MANIFESTS / f"{name}.yaml"
    try:
        pod = yaml.safe_load(path.read_bytes())
        container = pod["spec"]["containers"][0]
        container["command"] = [_replaced(each, arguments) for each in container["command"]]
        annotations = pod["metadata"].get("annotations") or {}
    except (FileNotFoundError, yaml.YAMLError, KeyError, IndexError, TypeError):
        raise NodeError(
            f"{name} is neither a unit of systemd that runs nor a static pod in {path}; start it again by hand, and "
            "run this again"
        ) from None
    pod["metadata"]["annotations"] = {**annotations, ANNOTATION: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    # Its temporary name begins with a dot, which the kubelet passes over.
    text = yaml.safe_dump(pod, sort_keys=False, width=float("inf"))
    atomic.write_file(path, text.encode(), path.stat().st_mode & 0o777)


def manifest_argument(root: Path, name: str, argument: str) -> str:
    """Return an argument of a component's static pod; empty where there is neither."""
    try:
        pod = yaml.safe_load((root / layout.MANIFESTS / f"{name}.yaml").read_bytes())
        return _arguments(pod["spec"]["containers"][0]["command"]).get(argument, "")
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return ""


def is_well(root: Path, name: str) -> bool:
    """Return whether a component answers its own health check."""
    for process in processes(root, [name]):
        scheme, host, port, path = _health(process)
        if not port:
            return True
        if answer(scheme, host, port, path) != 200:
            return False
    return True


def answer(scheme: str, host: str, port: int, path: str, context: ssl.SSLContext | None = None) -> int:
    """Return the status of a request, 0 without an answer; any server will do unless ``context`` is stricter."""
    connection: http.client.HTTPConnection
    if scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=context or anybody())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def served(host: str, port: int) -> bytes:
    """Return the certificate in DER that a server shows; empty when it does not answer."""
    try:
        with socket.create_connection((host, port), timeout=5) as raw, anybody().wrap_socket(raw) as connection:
            return connection.getpeercert(binary_form=True) or b""
    except OSError:
        return b""


def anybody() -> ssl.SSLContext:
    """Return a context that looks at no certificate: for whether something on this host answers, and what it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def api_address(process: Process) -> tuple[str, int]:
    """Return where this host's own API server answers."""
    return process.arguments.get("advertise-address") or "127.0.0.1", int(process.arguments.get("secure-port", "6443"))


def wait(condition: Callable[[], Any], what: str, timeout_seconds: float) -> Any:
    """Return the first true value of ``condition``. Raises NodeError, which says what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise NodeError(f"waited {timeout_seconds:.0f} s for {what}")
        time.sleep(_POLL_SECONDS)
    return found


def _health(process: Process) -> tuple[str, str, int, str]:
    """Return scheme, address, port and path of a component's own health check, as kubeadm's probes ask it."""
    given = process.arguments
    if process.name == "kube-apiserver":
        return "https", *api_address(process), "/readyz"
    if process.name == "etcd":
        # Without its own address for metrics it has no check that wants no certificate.
        scheme, slashes, rest = given.get("listen-metrics-urls", "").partition(",")[0].partition("://")
        host, colon, port = rest.rpartition(":")
        return (scheme, host, int(port), "/health") if slashes and colon else ("http", "", 0, "")
    default = {"kube-controller-manager": "10257", "kube-scheduler": "10259"}[process.name]
    host = given.get("bind-address", "127.0.0.1")
    return "https", "127.0.0.1" if host == "0.0.0.0" else host, int(given.get("secure-port", default)), "/healthz"  # noqa: S104


def _arguments(command: Sequence[str]) -> dict[str, str]:
    """Return ``--name=value`` as a dict; of a value that stands apart, and for a name alone, too."""
    found: dict[str, str] = {}
    last = ""
    for each in command:
        if each.startswith("--"):
            last, equals, value = each[2:].partition("=")
            found[last] = value if equals else "true"
            last = "" if equals else last
        elif last:
            found[last], last = each, ""
    return found


def _replaced(argument: str, wanted: Mapping[str, str]) -> str:
    name = argument.removeprefix("--").partition("=")[0]
    return f"--{name}={wanted[name]}" if argument.startswith("--") and name in wanted else argument


def restart_units(root: Path, units: Sequence[str], files: Sequence[str], *, check: bool = False) -> list[str]:
    """Start those running units again that are older than one of the files; return their names. Raises NodeError."""
    times = [path.stat().st_mtime for path in (root / name.lstrip("/") for name in files) if path.is_file()]
    restarted = []
    for unit in units if times else ():
        shown = run(["systemctl", "show", "--property=MainPID", "--value", unit], timeout_seconds=30).output.strip()
        started = started_at(root, int(shown)) if shown.isdigit() and shown != "0" else None
        if started is None or started > max(times) + 1:
            continue
        restarted.append(unit)
        if not check:
            done = run(["systemctl", "restart", unit], timeout_seconds=120)
            if done.status != 0:
                raise NodeError(f"{unit} does not start again: {done.last_line}; see 'journalctl -u {unit}'")
    return restarted
