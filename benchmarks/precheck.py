#!/usr/bin/env python3
"""Measure the precheck: one host with eight accelerators, and fleets of captured hosts beside one task for each check.

One host: the module as Ansible sends it (one file, nothing compiled before), started again and again; and how often ssh
is called for it. Fleets: inventories of captured hosts with a local connection, role precheck beside the twenty checks
of precheck_baseline.yml, both with the same number of forks.

    benchmarks/precheck.py [--sizes 10,50,100,200] [--baseline-sizes 10,50,200] [--forks 10] [--keep FILE] [--svg FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import trees  # noqa: E402  # the path above makes it importable

CAPTURED = ROOT / "tests/unit/data/hosts"
BUDGET_SECONDS = 0.3
PYTHON = "/usr/bin/python3"  # the hosts', which has no package of ours
# Stands in for ssh: notes the call and runs the remote command here. Ansible's last argument is that command.
SSH = """#!/bin/sh
echo call >> "$0.calls"
for last; do :; done
exec /bin/sh -c "$last"
"""


def settings(work: Path, **more: str) -> dict[str, str]:
    """Return the environment of Ansible: the checkout's collection, quiet, its own temporary directory."""
    given = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_LOCAL_TEMP": str(work / "tmp"),
        "ANSIBLE_REMOTE_TMP": str(work / "remote"),
        "ANSIBLE_DISPLAY_OK_HOSTS": "false",
        **more,
    }
    return {**os.environ, **given}


def run(command: list[str], env: dict[str, str]) -> float:
    """Return how many seconds the command takes. It must succeed."""
    began = time.monotonic()
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[:3])} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return time.monotonic() - began


def lay_out(work: Path) -> dict[str, Path]:
    """Lay every captured host out below ``work`` and return their roots by name."""
    return {
        path.name.removesuffix(".tree.json"): trees.materialise(trees.load(path), work / "hosts" / path.name)
        for path in sorted(CAPTURED.glob("*.tree.json"))
    }


def payload_of(module: str, arguments: dict[str, str], work: Path) -> Path:
    """Return the one file that Ansible makes of a module and its arguments to send it to a host."""
    command = ["ansible", "-i", "localhost,", "localhost", "-c", "local", "-e", f"ansible_python_interpreter={PYTHON}"]
    # Without pipelining the file stays behind.
    keep = {"ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_PIPELINING": "false", "ANSIBLE_REMOTE_TMP": str(work / module)}
    run([*command, "-m", module, "-a", json.dumps(arguments)], settings(work, **keep))
    return next((work / module).rglob("AnsiballZ_*.py"))


def time_payload(payload: Path, runs: int) -> tuple[float, float, dict[str, Any]]:
    """Return median seconds on the clock and of the processor, and the last result."""
    clock, processor = [], []
    for _ in range(runs):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run([PYTHON, str(payload)], check=True, capture_output=True, text=True)
        clock.append(time.monotonic() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(clock), statistics.median(processor), json.loads(done.stdout)


def round_trips(root: Path, work: Path) -> int:
    """Return how often Ansible calls ssh for one precheck."""
    ssh = work / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    variables = {"ansible_python_interpreter": PYTHON, "ansible_ssh_executable": str(ssh)}
    command = ["ansible", "-i", "localhost,", "localhost", "-c", "ssh", "-e", json.dumps(variables)]
    run([*command, "-m", "vllmd.platform.precheck", "-a", json.dumps({"root": str(root)})], settings(work))
    return len(Path(f"{ssh}.calls").read_text().splitlines())


def one_host(root: Path, work: Path, runs: int) -> None:
    """Print what the module takes on one host, beside Ansible's smallest module, and how many round trips."""
    payload = payload_of("vllmd.platform.precheck", {"root": str(root)}, work)
    ping = time_payload(payload_of("ansible.builtin.ping", {"data": "pong"}, work), runs)
    clock, processor, result = time_payload(payload, runs)
    inside = [time_payload(payload, 1)[2]["seconds"] for _ in range(runs)]
    report = result["report"]
    print(f"One host, {report['summary']['accelerators']}, {len(report['findings'])} findings, {runs} runs each:\n")
    print("| | clock, median ms | processor, median ms |\n|---|---|---|")
    print(f"| read the host and judge it | {statistics.median(inside) * 1000:.0f} | |")
    print(f"| the whole module, from starting Python on | {clock * 1000:.0f} | {processor * 1000:.0f} |")
    print(f"| of it Ansible's own (ansible.builtin.ping) | {ping[0] * 1000:.0f} | {ping[1] * 1000:.0f} |")
    rest = (clock - ping[0]) * 1000, (processor - ping[1]) * 1000
    print(f"| **facts and findings** (budget {BUDGET_SECONDS * 1000:.0f}) | **{rest[0]:.0f}** | **{rest[1]:.0f}** |")
    print(f"\nCalls of ssh: {round_trips(root, work)}. Sent: {payload.stat().st_size / 1024:.0f} KiB.\n")


def inventory(roots: dict[str, Path], size: int, work: Path) -> Path:
    """Write an inventory of ``size`` hosts, each one of the captured hosts."""
    names = list(roots)
    hosts = {f"host-{number:03d}": {"precheck_root": str(roots[names[number % len(names)]])} for number in range(size)}
    variables = {"ansible_connection": "local", "ansible_python_interpreter": PYTHON}
    path = work / f"fleet-{size}.json"
    path.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
    return path


def fleets(roots: dict[str, Path], sizes: dict[str, list[int]], forks: int, work: Path) -> dict[str, dict[int, float]]:
    """Return the seconds of each playbook by number of hosts."""
    reports = work / "reports"
    given = {
        "precheck_hosts": "all",
        "precheck_enforce": False,
        "precheck_show": "none",
        "precheck_report_dir": str(reports),
    }
    playbooks = {
        "precheck": ["playbooks/precheck.yml", "-e", json.dumps(given)],
        "one task each": ["benchmarks/precheck_baseline.yml"],
    }
    taken: dict[str, dict[int, float]] = {name: {} for name in playbooks}
    for name, arguments in playbooks.items():
        for size in sizes[name]:
            command = ["ansible-playbook", "-i", str(inventory(roots, size, work)), "--forks", str(forks), *arguments]
            taken[name][size] = run(command, settings(work))
            print(f"  {name}, {size} hosts: {taken[name][size]:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(reports, ignore_errors=True)
    return taken


def kept(taken: dict[str, dict[int, float]], path: Path) -> dict[str, dict[int, float]]:
    """Return what was measured now and earlier, and keep it."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = {
        name: dict(sorted({**{int(size): value for size, value in earlier.get(name, {}).items()}, **series}.items()))
        for name, series in taken.items()
    }
    path.write_text(json.dumps(merged), encoding="utf-8")
    return merged


def text_chart(taken: dict[str, dict[int, float]]) -> str:
    """Return bars of characters, one for each fleet."""
    longest = max(seconds for series in taken.values() for seconds in series.values())
    rows = [
        f"{name:>14} {size:>4} hosts {seconds:>7.1f} s {'#' * max(1, round(60 * seconds / longest))}"
        for name, series in taken.items()
        for size, seconds in series.items()
    ]
    return "\n".join(rows)


def svg_chart(taken: dict[str, dict[int, float]]) -> str:
    """Return a line chart: hosts to the right, seconds up; the series differ by dashes, too."""
    width, height, left, bottom = 640, 360, 60, 40
    most = max(size for series in taken.values() for size in series)
    longest = max(seconds for series in taken.values() for seconds in series.values())
    parts = []

    def at(size: int, seconds: float) -> tuple[float, float]:
        return left + (width - left - 140) * size / most, height - bottom - (height - bottom - 20) * seconds / longest

    for step in range(5):
        x, y = at(0, longest * step / 4)
        parts.append(f'<path d="M{x:.0f} {y:.0f}H{width - 140}" stroke="#8886"/>')
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{longest * step / 4:.0f} s</text>')
    for size in sorted({size for series in taken.values() for size in series}):
        x, y = at(size, 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{size}</text>')
    for (name, series), dash in zip(taken.items(), ("", "7 4"), strict=True):
        points = [at(size, seconds) for size, seconds in series.items()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="#555" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#555"/>' for x, y in points]
        parts.append(f'<text x="{points[-1][0] + 10:.0f}" y="{points[-1][1] + 4:.0f}">{name}</text>')
    parts.append(f'<text x="{left}" y="{height - 4}">hosts</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="font:13px sans-serif;background:#fff">{"".join(parts)}</svg>\n'
    )


def numbers(text: str) -> list[int]:
    """Return a comma separated list of numbers."""
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of the module on one host; 0: none")
    parser.add_argument("--sizes", type=numbers, default=[10, 50, 100, 200])
    parser.add_argument("--baseline-sizes", type=numbers, default=[10, 50, 200])
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="add to the fleets measured earlier, in this JSON file")
    parser.add_argument("--svg", type=Path, help="write the growth as a chart")
    given = parser.parse_args()
    if not shutil.which("ansible-playbook"):
        parser.error("ansible-playbook is not on PATH; put the bin directory of the Python environment there")
    with tempfile.TemporaryDirectory(prefix="vllmd-precheck-") as name:
        work = Path(name)
        roots = lay_out(work)
        if given.runs:
            one_host(roots["hgx-h100"], work, given.runs)
        sizes = {"precheck": given.sizes, "one task each": given.baseline_sizes}
        taken = fleets(roots, sizes, given.forks, work)
    if given.keep:
        taken = kept(taken, given.keep)
    print(f"Fleets, {given.forks} forks, local connection:\n")
    print("| hosts | precheck s | one task each s | times |\n|---|---|---|---|")
    for size, seconds in taken["precheck"].items():
        other = taken["one task each"].get(size)
        print(f"| {size} | {seconds:.1f} | {f'{other:.1f} | {other / seconds:.1f}' if other else ' | '} |")
    if not any(taken.values()):
        return
    print(f"\n{text_chart(taken)}")
    if given.svg:
        given.svg.write_text(svg_chart(taken), encoding="utf-8")


if __name__ == "__main__":
    main()
