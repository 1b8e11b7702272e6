#!/usr/bin/env python3
"""How long `vllmdctl --help` takes: the time that every use of the command line costs before it does anything.

Starts the program again and again, in the Python that runs this, and ends with failure when the median of the processor
time is above 0.25 s; on a machine that has nothing else to do, that is the time it takes.

    benchmarks/command_line.py [--runs 20]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 0.25


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = max(1, parser.parse_args().runs)
    ok = True
    for arguments in (["--help"], ["runtimes", "--help"], ["infer", "--help"]):
        measured = [_measure(arguments) for _run in range(runs)]
        processor = statistics.median(each for each, _wall in measured)
        wall = sorted(each for _processor, each in measured)
        ok = ok and (len(arguments) > 1 or processor <= LIMIT_SECONDS)
        what = " ".join(["vllmdctl", *arguments])
        took = f"{processor:.3f} s of processor time, {statistics.median(wall):.3f} s in all, fastest {wall[0]:.3f} s"
        print(f"{what:24} {took}")
    print(f"vllmdctl --help within {LIMIT_SECONDS} s: {'yes' if ok else 'no'}")
    return 0 if ok else 1


def _measure(arguments: list[str]) -> tuple[float, float]:
    """Return the processor time and the wall-clock time of one run, in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "vllmdctl", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    sys.exit(main())
