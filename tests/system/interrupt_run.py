#!/usr/bin/env python3
"""Kill `make run` at random moments and show that running it again converges.

Every round starts `make run`, ends its whole process tree with SIGKILL after a random time, looks for what a killed
build must not leave (mounts, loop devices, a half-published image), runs it again to the end, and expects the answer.
Rounds take turns: one begins from a stopped runtime, the next from nothing built, so that the kills fall into the build
as well as into the boot. Takes about as long as twice that many `make run`; nothing of it is part of `make test`.

    tests/system/interrupt_run.py [--rounds 5] [--seed N] [--longest SECONDS]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/vllmd")
EXPECTED = "Paris"


def descendants(pid: int) -> list[int]:
    """Return the pids below ``pid``, read once from /proc; processes that end meanwhile are left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command's name stands in parentheses and may hold anything; the parent follows the state after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_tree(process: subprocess.Popen[bytes]) -> int:
    """End the process and everything below it at once, as a power cut would; return how many were ended."""
    victims = [process.pid, *descendants(process.pid)]
    for pid in victims:  # stopped first, so that nothing is started between two kills
        signal_quietly(pid, signal.SIGSTOP)
    victims += [pid for pid in descendants(process.pid) if pid not in victims]
    for pid in victims:
        signal_quietly(pid, signal.SIGKILL)
    process.wait()
    return len(victims)


def signal_quietly(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def leftovers() -> list[str]:
    """Return what a killed run must not leave behind once the next one has ended."""
    found = [
        f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if f"{STATE}/" in line
    ]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if str(STATE) in backing.read_text():
            found.append(f"loop device {backing.parts[3]} of {backing.read_text().strip()}")
    found += [f"half-published {path}" for path in (STATE / "images").glob("*/.*partial*")]
    found += [f"build tree {path}" for path in (STATE / "build").glob("*") if path.is_dir()]
    return found


def make(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start make with its output in ``log``."""
    with log.open("wb") as output:
        return subprocess.Popen(["make", "-C", str(ROOT), *arguments], stdout=output, stderr=output)


def run_to_end(log: Path) -> None:
    """Run `make run` to its end; exit with a sentence unless it answers."""
    if make("run", log=log).wait() != 0:
        sys.exit(f"`make run` failed after a kill; its output: {log}")
    if EXPECTED not in log.read_text(errors="replace"):
        sys.exit(f"`make run` ended without an answer that contains {EXPECTED}; its output: {log}")


def main() -> int:
    """Run the rounds; return 0 when every one converged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the same moments")
    parser.add_argument("--longest", type=float, default=240.0, help="latest moment of a kill, in seconds")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311  # moments, not secrets
    logs = ROOT / "build" / "interrupt"
    logs.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, {options.rounds} rounds, outputs in {logs}", flush=True)
    for number in range(1, options.rounds + 1):
        fresh = "clean" if number % 2 else "stop"
        make(fresh, log=logs / f"{number}-{fresh}.log").wait()
        logs.mkdir(parents=True, exist_ok=True)  # `make clean` removes build/
        moment = moments.uniform(0.5, options.longest)
        started = time.monotonic()
        process = make("run", log=logs / f"{number}-killed.log")
        try:
            process.wait(moment)
            print(f"round {number}: ended by itself before {moment:.0f} s", flush=True)
        except subprocess.TimeoutExpired:
            ended = kill_tree(process)
            print(f"round {number}: after make {fresh}, killed {ended} processes at {moment:.1f} s", flush=True)
        killed = time.monotonic()
        run_to_end(logs / f"{number}-again.log")
        left = leftovers()
        if left:
            sys.exit(f"round {number} left behind: {'; '.join(left)}")
        now = time.monotonic()
        print(f"round {number}: converged {now - killed:.0f} s later ({now - started:.0f} s in all)", flush=True)
    print(f"{options.rounds} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
