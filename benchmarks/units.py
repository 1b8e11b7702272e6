#!/usr/bin/env python3
"""Show which units of our guest take longest to start, in one boot of the image that `make image` published.

    benchmarks/units.py [--count 10]

Unlike `benchmarks/boot.py` it measures nothing side by side: most units start at once and wait for the same processors,
so a time says how long a unit took, not by how much the boot would be shorter without it.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import boot  # a neighbour, found by the path above

LIMIT_SECONDS = 300


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def blame(directory: Path, key: Path, port: int) -> str:
    """Return what `systemd-analyze blame` says in the guest, as soon as its sshd answers."""
    options = {"UserKnownHostsFile": directory / "known_hosts", "StrictHostKeyChecking": "accept-new"}
    options |= {"IdentitiesOnly": "yes", "ConnectTimeout": 30}
    ssh = ["ssh", "-i", str(key), "-p", str(port), *(f"-o{name}={value}" for name, value in options.items())]
    command = [*ssh, "root@127.0.0.1", "systemd-analyze", "--no-pager", "blame"]
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            sys.exit(f"the guest's sshd does not answer: {done.stderr.strip()}")
        time.sleep(1)


def main() -> int:
    """Boot the guest and print its slowest units; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="how many units (default 10)")
    options = parser.parse_args()
    if not (boot.IMAGE / "manifest.json").exists():
        sys.exit(f"there is no image at {boot.IMAGE}; run `make image` first")
    with tempfile.TemporaryDirectory(prefix="vllmd-units-", dir="/var/tmp") as name:
        work = Path(name)
        key, port = work / "key", free_port()
        boot.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", key)
        guest = boot.our_guest(boot.our_config(work, key.with_suffix(".pub").read_text()))
        with boot.booted(guest, work, 1, f"mode=user,forward=127.0.0.1:{port}:22") as seconds:
            print(f"engine's process after {seconds:.1f} s")
            print("\n".join(blame(work, key, port).splitlines()[: options.count]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
