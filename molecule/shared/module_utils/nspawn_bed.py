"""What the modules that make and unmake test hosts share: where a host's state lies, and how it is taken apart.

A host is one directory below STATE_ROOT, named after its machine:

    host.json   what was started: {"pid", "start_ticks", "machine", "address", ...}
    upper/      what the host changed over its root file system
    work/       overlayfs' own
    volumes/    directories of the host that are not on the overlay
    root/       the merged tree the container runs on (a mount point)
    console.log what the container printed

Everything is undone from host.json and the fixed names alone. Nothing is searched for by pattern, so a second
bed on the same machine is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

STATE_ROOT = Path("/var/tmp/vllmd-molecule")
CGROUP_ROOT = Path("/sys/fs/cgroup")
NETWORKS = 16  # 198.51.100.0/24 (TEST-NET-2, RFC 5737) cut into /28
HOSTS_PER_NETWORK = 13  # .1 is the bridge, .15 is broadcast


class BedError(Exception):
    """One line for a person: what failed, where, and what to do."""


def bridge_name(slot: int) -> str:
    """Name of the bridge of network `slot` (0 to NETWORKS - 1)."""
    return f"vllmdmol{slot}"


def address(slot: int, index: int) -> str:
    """Address of member `index` of network `slot`: 0 is the bridge, 1 the first host."""
    return f"198.51.100.{16 * slot + 1 + index}"


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; BedError names it and its last line when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise BedError(f"{' '.join(command)} failed with {result.returncode}: {said[-1]}")
    return result


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when there is no such process.

    Together with the pid it names one process for good: pids are used again, this pair is not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def read_record(path: Path) -> dict:
    """The record at `path`; empty when there is none or a crash left half of one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, record: dict) -> None:
    """Write a record so that a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.rename(path)


def is_running(record: dict) -> bool:
    """Whether the recorded process, and not a later one with its pid, lives."""
    pid = record.get("pid")
    return isinstance(pid, int) and start_ticks(pid) is not None and start_ticks(pid) == record.get("start_ticks")


def stop_process(record: dict, graceful_seconds: float) -> None:
    """End the recorded container: orderly first (SIGTERM makes nspawn power the guest off), then at once."""
    if not is_running(record):
        return
    for signal_number, patience in ((signal.SIGTERM, graceful_seconds), (signal.SIGKILL, 10.0)):
        try:
            os.kill(record["pid"], signal_number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not is_running(record):
                return
            time.sleep(0.05)
    raise BedError(
        f"process {record['pid']} of test host {record.get('machine')} survives SIGKILL; see its state in ps"
    )


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly at `path`."""
    wanted = str(path)
    with Path("/proc/self/mounts").open(encoding="utf-8") as mounts:
        return any(line.split(" ", 2)[1] == wanted for line in mounts)


def cgroup_directories(machine: str) -> list[Path]:
    """The machine's own group in every cgroup hierarchy mounted here (one on a pure v2 host)."""
    with Path("/proc/self/mounts").open(encoding="utf-8") as mounts:
        roots = [Path(line.split(" ")[1]) for line in mounts if line.split(" ")[2] in ("cgroup", "cgroup2")]
    return [root / f"vllmd-molecule-{machine}" for root in dict.fromkeys(roots) if CGROUP_ROOT in (root, *root.parents)]


def enter_own_cgroup(machine: str) -> None:
    """Move this process into a group of the machine's own in every hierarchy, so that hosts do not share one."""
    for directory in cgroup_directories(machine):
        directory.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a v1 cpuset accepts no process before these are filled
            inherited = directory.parent / setting
            if inherited.exists():
                (directory / setting).write_text(inherited.read_text(encoding="ascii"), encoding="ascii")
        (directory / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def make_host_key(root: Path) -> str:
    """Make the host key of a test host in the tree it is going to boot; the public one, as known_hosts wants it."""
    key = root / "etc/ssh/ssh_host_ed25519_key"
    key.parent.mkdir(parents=True, exist_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key))
    return " ".join(key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])


def wait_for_ssh(
    is_alive: Callable[[], bool], address: str, timeout: float, console: Path, answer_seconds: float = 1.0
) -> None:
    """Return once sshd greets; BedError with the console's end when the host dies or the time is up.

    An emulated host can take longer than `answer_seconds` for its greeting, and then is only asked again.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((address, 22), timeout=answer_seconds) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        alive = is_alive()
        if not alive or time.monotonic() > deadline:
            why = f"no ssh answer in {timeout:.0f} s" if alive else "its process ended"
            last = "\n".join(console.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise BedError(f"test host at {address} did not come up: {why}. Its console ({console}) ends:\n{last}")
        time.sleep(0.1)


def kill_group(machine: str) -> None:
    """Kill whatever still lives in the machine's own group: a create that was killed may not have recorded it."""
    for top in cgroup_directories(machine):
        for directory, _, _ in os.walk(top):
            for line in (Path(directory) / "cgroup.procs").read_text(encoding="ascii").split():
                try:
                    os.kill(int(line), signal.SIGKILL)
                except ProcessLookupError:
                    continue


def remove_cgroups(machine: str) -> None:
    """Remove the machine's groups, innermost first; they are empty once its processes are gone."""
    for top in cgroup_directories(machine):
        for directory, _, _ in os.walk(top, topdown=False):
            for attempt in range(20):  # an exiting process leaves its group a moment after it is gone from /proc
                try:
                    Path(directory).rmdir()
                    break
                except OSError:
                    if attempt == 19:
                        raise
                    time.sleep(0.1)


def dismantle(machine: str, graceful_seconds: float = 10.0) -> bool:
    """Take a host apart completely; True when there was something to take apart."""
    state = STATE_ROOT / machine
    if not state.exists():
        return False
    stop_process(read_record(state / "host.json"), graceful_seconds)
    kill_group(machine)
    root = state / "root"
    while is_mounted(root):
        run("umount", str(root))
    remove_cgroups(machine)
    # systemd-nspawn's directory for mounts propagated into the container, which it leaves behind
    for leftover in ("propagate", "unix-export"):
        shutil.rmtree(Path("/run/systemd/nspawn") / leftover / machine, ignore_errors=True)
    shutil.rmtree(state)
    remove_state_root()
    return True


def remove_state_root() -> None:
    """Remove the directory of all hosts and networks with the last of them."""
    with contextlib.suppress(OSError):  # another run still has something in it
        STATE_ROOT.rmdir()
