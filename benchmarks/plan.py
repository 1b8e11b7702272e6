#!/usr/bin/env python3
"""Measure the planner: a full fleet from nothing, one changed runtime on it, and how both grow with the fleet.

    benchmarks/plan.py [--hosts 1000] [--runtimes 3000] [--sizes 10,30,100,300,1000] [--svg FILE]

Each host has two sockets, 2 x 48 cores and eight accelerators; runtimes ask for 1, 2, 4 or 8 accelerators, some for
another type, more CPUs, their replicas apart. Each size runs in a process of its own, so that the memory is its own.
Ends with 1 when a budget is missed: 3 s and 500 MB for the full fleet, 0.5 s for one change on it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collection"))

from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options  # noqa: E402  # needs it
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import plan_data  # noqa: E402  # needs it

BUDGET_SECONDS, BUDGET_MB, BUDGET_CHANGE_SECONDS = 3.0, 500, 0.5
_TYPES = (("nvidia-h100", 81920), ("nvidia-a40", 49152))


def host(number: int) -> dict[str, Any]:
    """Return the capacity of one host as module host_capacity does."""
    kind, memory = _TYPES[number % 4 == 3]
    nodes = [
        {
            "node": node,
            "cores": [[core, core + 96] for core in range(48 * node + 1, 48 * node + 48)],
            "memory_mib": 480 * 1024,
            "distances": [10, 21] if node == 0 else [21, 10],
        }
        for node in (0, 1)
    ]
    units = [
        {
            "groups": [20 + index],
            "devices": [f"0000:{0x10 + index:02x}:00.0"],
            "accelerators": [{"bdf": f"0000:{0x10 + index:02x}:00.0", "type": kind, "memory_mib": memory}],
            "node": index // 4,
            "switch": f"0000:{0x80 + index // 2:02x}:00.0",
            "island": "nvlink" if kind == "nvidia-h100" else None,
        }
        for index in range(8)
    ]
    name = f"gpu-{number:04d}.example.com"
    return {
        "schema_version": 1,
        "host": name,
        "nodes": nodes,
        "units": units,
        "hugepage_kib": 1048576,
        "left_out": [],
    }


def runtime(number: int, cpu: int = 8) -> dict[str, Any]:
    """Return one runtime as module runtime_manifest does; 20 of them ask for 46 accelerators in all."""
    count = (1, 1, 2, 1, 4, 1, 2, 1, 1, 8, 1, 4, 1, 2, 1, 8, 2, 1, 2, 2)[number % 20]
    kind, memory = _TYPES[number % 5 == 4]
    return {
        "metadata": {"name": f"runtime-{number:05d}"},
        "spec": {
            "priority": number % 3,
            "resources": {
                "cpu": cpu * count,
                "memory_mib": 49152 * count,
                "accelerator_count": count,
                "accelerator_type": None if number % 3 == 0 else kind,
                "accelerator_memory_mib": memory if number % 2 else 0,
            },
            "scaling": {"minReplicas": 1, "maxReplicas": 3},
            "placement": {
                "hosts": [],
                "numa_node": None,
                "devices": [],
                "strategy": "spread" if number % 7 == 0 else None,
                "anti_affinity": "preferred",
            },
            "network": {"mode": "tap"},
        },
    }


def timed(*arguments: Any) -> tuple[float, float, dict[str, Any]]:
    """Plan; return seconds on the clock, seconds of the processor, and the plan."""
    began, began_cpu = time.perf_counter(), time.process_time()
    plan = plan_data(*arguments)
    return time.perf_counter() - began, time.process_time() - began_cpu, plan


def measure(hosts: int, runtimes: int) -> dict[str, float]:
    """Plan in this process and return seconds, megabytes and what came of it."""
    fleet, wanted = [host(number) for number in range(hosts)], [runtime(number) for number in range(runtimes)]
    full, full_cpu, first = timed(fleet, wanted, None, Options())
    text = json.dumps(first)

    wanted[runtimes // 2] = runtime(runtimes // 2, cpu=10)
    change, change_cpu, second = timed(fleet, wanted, json.loads(text), Options())
    if second["summary"]["keep"] < len(first["placements"]) - 1:
        sys.exit(f"error: one changed runtime moved others: {second['summary']}")

    options = Options(cpu="split", memory="split", accelerators="split")
    split_s, split_cpu, split = timed(fleet, wanted, None, options)
    return {
        "hosts": hosts,
        "runtimes": runtimes,
        "full_s": full,
        "full_cpu_s": full_cpu,
        "change_s": change,
        "change_cpu_s": change_cpu,
        "split_s": split_s,
        "split_cpu_s": split_cpu,
        "placed": len(first["placements"]),
        "unplaced": first["summary"]["unplaced"],
        "used": sum(each["accelerators_used"] for each in first["hosts"].values()) / (8 * hosts),
        "split_used": sum(each["accelerators_used"] for each in split["hosts"].values()) / (8 * hosts),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "plan_mb": len(text) / 1e6,
    }


def in_own_process(hosts: int, runtimes: int, runs: int) -> dict[str, float]:
    """Return the medians of several processes."""
    results = []
    for _run in range(runs):
        command = [sys.executable, __file__, "--one", str(hosts), str(runtimes)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr or f"error: {' '.join(command)} ended with {done.returncode}")
        results.append(json.loads(done.stdout))
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def text_chart(rows: list[dict[str, float]]) -> str:
    """Return bars of characters, one for each size of the fleet."""
    longest = max(row["full_s"] for row in rows)
    return "\n".join(
        f"{row['hosts']:>6.0f} hosts {row['runtimes']:>6.0f} runtimes {row['full_s']:>7.3f} s "
        f"{'#' * max(1, round(60 * row['full_s'] / longest))}"
        for row in rows
    )


def svg_chart(rows: list[dict[str, float]]) -> str:
    """Return a line chart: hosts to the right, seconds up; full plan, plan with split, one change."""
    width, height, left, bottom, right = 640, 360, 60, 40, 120
    most, longest = max(row["hosts"] for row in rows), max(max(row["full_s"], row["split_s"]) for row in rows)

    def at(hosts: float, seconds: float) -> tuple[float, float]:
        x = left + (width - left - right) * hosts / most
        return x, height - bottom - (height - bottom - 20) * seconds / longest

    parts = []
    for step in range(5):
        x, y = at(0, longest * step / 4)
        parts.append(f'<path d="M{x:.0f} {y:.0f}H{width - right}" stroke="#8886"/>')
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{longest * step / 4:.1f} s</text>')
    for row in rows:
        x, y = at(row["hosts"], 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{row["hosts"]:.0f}</text>')
    for name, key, dash in (
        ("from nothing", "full_s", ""),
        ("split", "split_s", "7 4"),
        ("one change", "change_s", "2 3"),
    ):
        points = [at(row["hosts"], row[key]) for row in rows]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="#555" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#555"/>' for x, y in points]
        parts.append(f'<text x="{points[-1][0] + 10:.0f}" y="{points[-1][1] + 4:.0f}">{name}</text>')
    parts.append(f'<text x="{left}" y="{height - 4}">hosts, with three runtimes each</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="font:13px sans-serif;background:#fff">{"".join(parts)}</svg>\n'
    )


def main() -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--runtimes", type=int, default=3000)
    parser.add_argument("--sizes", default="10,30,100,300,1000", help="hosts, for the growth")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--svg", type=Path, help="write the growth as a chart")
    parser.add_argument("--one", type=int, nargs=2, metavar=("HOSTS", "RUNTIMES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return 0
    sizes = sorted({int(size) for size in given.sizes.split(",") if size} | {given.hosts})
    per_host = given.runtimes / given.hosts
    rows = [in_own_process(size, round(size * per_host), given.runs) for size in sizes]
    print("Seconds on the clock, and in brackets of the processor, which other work may share:\n")
    print(
        "| hosts | runtimes | from nothing | split | one change | peak MB | plan MB | accelerators used | left over |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(
            f"{row[f'{name}_s']:.3f} ({row[f'{name}_cpu_s']:.3f})" for name in ("full", "split", "change")
        )
        print(
            f"| {row['hosts']:.0f} | {row['runtimes']:.0f} | {times} | {row['mb']:.0f} | {row['plan_mb']:.1f} | "
            f"{row['used']:.1%}, split {row['split_used']:.1%} | {row['unplaced']:.0f} |"
        )
    print(f"\n{text_chart(rows)}")
    if given.svg:
        given.svg.write_text(svg_chart(rows), encoding="utf-8")
    full = next(row for row in rows if row["hosts"] == given.hosts)
    missed = [
        f"{what} {found:.2f}, budget {budget}"
        for what, found, budget in (
            ("from nothing, s:", full["full_s"], BUDGET_SECONDS),
            ("peak, MB:", full["mb"], BUDGET_MB),
            ("one change, s:", full["change_s"], BUDGET_CHANGE_SECONDS),
        )
        if found >= budget
    ]
    for line in missed:
        print(f"error: missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
