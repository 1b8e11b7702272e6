"""vllmd-diagnose: everything that a person needs to see what is wrong with this guest, in one file without secrets."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from vllmd_node import redact

#: In the guest that is memory, and the file is its owner's alone.
PLACE = "/tmp"  # noqa: S108
_COMMAND_SECONDS = 20
_HTTP_SECONDS = 5
_LIMIT = 8 * 1024**2

#: File in the bundle -> command.
COMMANDS = {
    "units.txt": ["systemctl", "--no-pager", "list-units", "--all"],
    "units-failed.txt": ["systemctl", "--no-pager", "--failed", "--full"],
    "units-ours.txt": ["systemctl", "--no-pager", "--full", "--lines=50", "status", "vllm*", "containerd*", "kubelet*"],
    "boot.txt": ["systemd-analyze", "--no-pager", "blame"],
    "boot-time.txt": ["systemd-analyze", "--no-pager", "time"],
    "journal.txt": ["journalctl", "--no-pager", "--boot", "--lines=20000", "--output=short-precise"],
    "kernel.txt": ["dmesg"],
    "network.txt": ["ip", "-brief", "address"],
    "routes.txt": ["ip", "route"],
    "sockets.txt": ["ss", "-H", "-tuln"],
    "firewall.txt": ["nft", "list", "ruleset"],
    "disks.txt": ["df", "-h"],
    "memory.txt": ["free", "-m"],
    "processes.txt": ["ps", "-eo", "pid,ppid,user,rss,pcpu,stat,etime,comm", "--sort=-rss"],
    "modules.txt": ["lsmod"],
    "gpus.txt": ["nvidia-smi", "-q"],
    "gpu-topology.txt": ["nvidia-smi", "topo", "-m"],
    "packages.txt": ["dpkg-query", "--show"],
}
#: File in the bundle -> file of the guest, read below the root.
FILES = {
    "os-release.txt": "etc/os-release",
    "cmdline.txt": "proc/cmdline",
    "cpuinfo.txt": "proc/cpuinfo",
    "meminfo.txt": "proc/meminfo",
    "mounts.txt": "proc/mounts",
    "uptime.txt": "proc/uptime",
    "version.txt": "proc/version",
    "driver.txt": "proc/driver/nvidia/version",
    "engine-given.json": "run/vllmd/engine.yaml",
    "engine-chosen.json": "run/vllm/engine.yaml",
    "node.json": "run/vllm/node.json",
    "runtime.json": "run/vllmd/config/vllmd/runtime.json",
    "profiles.json": "usr/lib/vllmd/profiles.json",
    "metrics-node.txt": "run/vllmd/metrics/node.prom",
    "metrics-gpus.txt": "run/vllmd/metrics/gpu.prom",
}
ENVIRONMENTS = {"environment-image.txt": "usr/lib/vllmd/engine.env", "environment.txt": "run/vllmd/engine.env"}
#: File in the bundle -> path on the engine's port; the node exporter's is a whole address.
ADDRESSES = {
    "engine-health.txt": "/health",
    "engine-version.txt": "/version",
    "engine-models.txt": "/v1/models",
    "engine-metrics.txt": "/metrics",
    "node-exporter.txt": "http://127.0.0.1:9100/metrics",
}


def collect(root: Path, note: Callable[[str], None]) -> dict[str, str]:
    """Return the bundle's files by name, redacted. What cannot be had is told to ``note`` and left out."""
    environment = {}
    for path in ENVIRONMENTS.values():
        environment.update(redact.environment_text(_read(root / path) or ""))
    runtime = _object(_read(root / FILES["runtime.json"]))
    given = runtime.get("environment")
    environment.update(given if isinstance(given, dict) else {})
    secrets = redact.secrets_of(environment)
    raw: dict[str, str] = {}
    for name, path in {**FILES, **{f"image/{each.name}": str(each) for each in _facts(root)}}.items():
        content = _read(root / path)
        if content is None:
            note(f"{name}: /{path} is not there")
        else:
            raw[name] = _plain(name, content)
    for name, path in ENVIRONMENTS.items():
        pairs = redact.environment_text(_read(root / path) or "")
        raw[name] = "".join(f"{key}={each if redact.is_open(key) else redact.HIDDEN}\n" for key, each in pairs.items())
    for name, command in COMMANDS.items():
        raw[name] = _run(command, lambda text, name=name: note(f"{name}: {text}"))  # type: ignore[misc]
    port = _object(_read(root / FILES["engine-given.json"])).get("port", 8000)
    for name, address in ADDRESSES.items():
        url = address if "://" in address else f"http://127.0.0.1:{port}{address}"
        raw[name] = _get(url, lambda text, name=name: note(f"{name}: {text}"))  # type: ignore[misc]
    return {name: redact.text(content, secrets) for name, content in sorted(raw.items()) if content}


def bundle(files: dict[str, str], prefix: str, now: float) -> bytes:
    """Return a tar.gz with the files below the directory ``prefix``."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode("utf-8", "replace")
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size, member.mtime, member.mode = len(data), int(now), 0o600
            archive.addfile(member, io.BytesIO(data))
    return output.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write the bundle, readable for its owner alone; nobody ever sees half of it. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: list[str] | None = None, root: Path = Path("/")) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="vllmd-diagnose",
        description="Write what a person needs to see what is wrong with this guest into one tar.gz, without secrets.",
        epilog="Over ssh: ssh root@guest vllmd-diagnose --output - > bundle.tar.gz",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        default=PLACE,
        help=f"a file, a directory, or - for standard output (default: {PLACE})",
    )
    given = parser.parse_args(arguments)
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    host = os.uname().nodename
    missing: list[str] = []
    files = collect(root, missing.append)
    files["missing.txt"] = "".join(f"{line}\n" for line in missing)
    content = bundle(files, f"vllmd-diagnose-{host}-{stamp}", now)
    if given.output == "-":
        sys.stdout.buffer.write(content)
        return 0
    path = Path(given.output)
    if path.is_dir():
        path /= f"vllmd-diagnose-{host}-{stamp}.tar.gz"
    try:
        write(path, content)
    except OSError as error:
        print(
            f"vllmd-diagnose: cannot write {path}: {error.strerror}; name another place with --output", file=sys.stderr
        )
        return 1
    print(f"{path}: {len(files)} files, {len(content) // 1024} KiB, secrets hidden")
    return 0


def _facts(root: Path) -> list[Path]:
    return [each.relative_to(root) for each in sorted((root / "usr/share/vllmd/facts.d").glob("*.json"))]


def _plain(name: str, content: str) -> str:
    """Hide by field in JSON, which is surer than by looks."""
    if not name.endswith(".json"):
        return content
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(redact.document(found), indent=1) + "\n"


def _object(content: str | None) -> dict[str, object]:
    try:
        found = json.loads(content or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return None


def _run(command: list[str], note: Callable[[str], None]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS, check=False
        )
    except OSError as error:
        note(f"{command[0]}: {error.strerror}")
        return ""
    except subprocess.TimeoutExpired:
        note(f"{command[0]} did not end in {_COMMAND_SECONDS} s")
        return ""
    if done.returncode != 0 and not done.stdout:
        note(f"{command[0]} ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
    return done.stdout[-_LIMIT:].decode("utf-8", "replace")


def _get(url: str, note: Callable[[str], None]) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_HTTP_SECONDS) as response:
            body = bytes(response.read(_LIMIT))
            return f"{response.status}\n{body.decode('utf-8', 'replace')}"
    except urllib.error.HTTPError as error:
        return f"{error.code}\n"
    except (OSError, ValueError) as error:
        note(f"{url} does not answer: {error}")
        return ""
