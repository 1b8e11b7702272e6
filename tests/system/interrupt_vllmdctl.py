#!/usr/bin/env python3
"""Press Ctrl-C in `vllmdctl apply` at random moments and show that the same command converges.

Every round begins from no runtime, starts `vllmdctl apply` on a pseudo-terminal, sends it one Ctrl-C (every third round
three, which kill) after a random time, and expects exit status 130, one line that says so, and none of its processes
left. Then the same command must serve, and once more must change nothing. Needs root, port 8000 and 2222, and a machine
on which no runtime is configured; the image is built by the first round if it is not there. `--verb configure` does the
same to `vllmdctl runtimes configure`, which boots nothing and so has its moments closer together.

    tests/system/interrupt_vllmdctl.py [--rounds 3] [--seed N] [--longest SECONDS] [--verb apply|configure]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "smollm2"
INTERRUPTED = 130


class Ctl:
    """vllmdctl of this checkout, with an environment of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; exit when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "vllmdctl", *arguments],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            sys.exit(f"vllmdctl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def interrupted(self, moment: float, times: int, *arguments: str) -> tuple[int, str]:
        """Run it on a terminal, press Ctrl-C after ``moment`` seconds; return exit status and what it said."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "vllmdctl", *arguments],
            env=self.environment | {"TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        said = bytearray()
        reader = threading.Thread(target=_read, args=(ours, said), daemon=True)
        reader.start()
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            for _time in range(times):
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    time.sleep(1)
        status = process.wait()
        reader.join(10)
        return status, said.decode(errors="replace")


def _read(descriptor: int, said: bytearray) -> None:
    try:
        while data := os.read(descriptor, 65536):
            said.extend(data)
    except OSError:  # a terminal ends this way
        return


def left_over(directory: Path) -> list[str]:
    """Return the commands of Ansible that still run for the environment below ``directory``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            if "ansible-playbook" in command and str(directory) in command:
                found.append(f"{entry.name}: {command[:120]}")
    return found


def main() -> int:
    """Run the rounds; return 0 when every one converged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the same moments")
    parser.add_argument("--longest", type=float, default=60.0, help="latest moment of the Ctrl-C, in seconds")
    parser.add_argument("--verb", choices=["apply", "configure"], default="apply")
    options = parser.parse_args()
    configured = sorted(path.stem for path in Path("/etc/vllmd/hypervisor").glob("*.env"))
    if os.geteuid() != 0 or configured:
        sys.exit(f"needs root and a machine without runtimes; there is {', '.join(configured) or 'none'}")
    moments = random.Random(options.seed)  # noqa: S311  # moments, not secrets
    print(f"seed {options.seed}, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="vllmd-interrupt-") as name:
        ctl = Ctl(Path(name))
        ctl.run("initialize", "environment", "--no-packages")
        for number in range(1, options.rounds + 1):
            _round(ctl, number, options.verb, moments.uniform(0.2, options.longest), 1 if number % 3 else 3)
    print(f"{options.rounds} passed, 0 failed")
    return 0


def _round(ctl: Ctl, number: int, verb: str, moment: float, times: int) -> None:
    manifest = ROOT / "inventories/local/runtime.yaml"
    command = ["apply", str(manifest)]
    if verb == "configure":
        (ctl.directory / f"config/vllmd/inventory/runtimes/{NAME}.yaml").write_text(manifest.read_text())
        command = ["runtimes", "configure", "--memory", "split"]
    started = time.monotonic()
    status, said = ctl.interrupted(moment, times, *command)
    took = time.monotonic() - started
    if status == 0 and took > moment:
        print(f"round {number}: had just ended at {moment:.1f} s", flush=True)
    elif status not in (0, INTERRUPTED) or "Traceback" in said:
        sys.exit(f"round {number}: {times} x Ctrl-C at {moment:.1f} s ended with {status}:\n{said}")
    last = (said.strip().splitlines() or [""])[-1]
    print(f"round {number}: {times} x Ctrl-C at {moment:.1f} s, ended {took - moment:.1f} s later: {last}", flush=True)
    if left := left_over(ctl.directory):
        sys.exit(f"round {number} left behind: {'; '.join(left)}")
    started = time.monotonic()
    ctl.run(*command)
    again = json.loads(ctl.run(*command, "-o", "json").stdout)
    if again["changed"]:
        sys.exit(f"round {number}: the third time, {again['changed']} tasks changed something; log {again['log']}")
    state = json.loads(ctl.run("runtimes", "list", "-o", "json").stdout)[0]["state"]
    wanted = "running" if verb == "apply" else "stopped"
    if state != wanted:
        sys.exit(f"round {number}: {NAME} is {state}, expected {wanted}")
    print(f"round {number}: {state}, and nothing to change, {time.monotonic() - started:.0f} s later", flush=True)
    ctl.run("runtimes", "delete", NAME, "--yes")


if __name__ == "__main__":
    sys.exit(main())
