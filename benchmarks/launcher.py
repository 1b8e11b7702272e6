#!/usr/bin/env python3
"""Measure what the launcher adds before the virtual machine monitor runs, beside starting Python alone.

/bin/true stands in for the monitor, so what is measured is the launcher: its interpreter, reading and checking the
environment, preparing the run directory, and replacing itself. Runs of both take turns.

    benchmarks/launcher.py [--runs 30]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import boot_files  # noqa: E402  # the path above makes it importable

PACKAGE = ROOT / "roles/hypervisor/files"
BUDGET_SECONDS = 0.150
STUB = f"""import sys
sys.path.insert(0, {str(PACKAGE)!r})
from vllmd_hypervisor.cli import main
sys.exit(main(sys.argv[1:]))"""


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a runtime whose monitor is /bin/true."""
    for name in ("system.raw", "config.iso"):
        with (directory / name).open("wb") as image:
            image.truncate(1 << 20)
    (directory / "qemu").symlink_to("/bin/true")
    settings = {
        "BACKEND": "qemu",
        "VMM_FILEPATH": directory / "qemu",
        "RUN_DIRPATH": directory / "run",
        "KERNEL_FILEPATH": boot_files.write(directory / "kernel", boot_files.bzimage()),
        "SYSTEM_IMAGE_FILEPATH": directory / "system.raw",
        "CONFIG_IMAGE_FILEPATH": directory / "config.iso",
        "MEMORY_CONFIG": "size=1G,shared=on",
        "NETWORK": "mode=user",
    }
    return {**os.environ, **{f"VLLMD_HYPERVISOR_{key}": str(value) for key, value in settings.items()}}


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Return how long the command takes."""
    started = time.monotonic()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    taken: dict[str, list[float]] = {"python": [], "launcher": []}
    with tempfile.TemporaryDirectory(prefix="vllmd-launcher-") as name:
        env = environment(Path(name))
        for _ in range(runs):
            taken["python"].append(seconds(["/usr/bin/python3", "-IS", "-c", "pass"], env))
            taken["launcher"].append(seconds(["/usr/bin/python3", "-IS", "-c", STUB, "start"], env))
    python, launcher = (statistics.median(taken[key]) for key in ("python", "launcher"))
    print("| | median ms | of the 150 ms budget |\n|---|---|---|")
    print(f"| python alone | {python * 1000:.0f} | {python / BUDGET_SECONDS:.2f} |")
    print(f"| launcher, until the monitor runs and ends | {launcher * 1000:.0f} | {launcher / BUDGET_SECONDS:.2f} |")
    print(f"\nlauncher / python alone: {launcher / python:.1f} ({runs} runs each)")


if __name__ == "__main__":
    main()
