# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Reports as files of a directory on the controller, and what they say of a fleet."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.atomic import make_directory, write_file
from ansible_collections.vllmd.platform.plugins.module_utils.checks import html
from ansible_collections.vllmd.platform.plugins.module_utils.checks.compare import EarlierReportError, compare
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import FAIL, RISK, STATUSES, WARN
from ansible_collections.vllmd.platform.plugins.module_utils.checks.text import printable, table

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MODE = 0o640  # a report tells an attacker where a host is weak


class ReportError(Exception):
    """A report file that cannot be read; str() is one line for a person."""


def stem(host: str) -> str:
    """Return the file name, without suffix, of a host's report; different hosts have different ones."""
    safe = _UNSAFE.sub("_", host).lstrip(".")
    if safe == host and safe not in ("", "index", "fleet"):
        return safe
    return f"{safe}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def load(path: Path) -> dict[str, Any]:
    """Return a saved report. Raises ReportError, and FileNotFoundError where there is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ReportError(f"report {path}: {error}; remove it, or give another one") from None
    if not isinstance(report, dict) or not isinstance(report.get("findings"), list):
        raise ReportError(f"report {path}: it is no precheck report; remove it, or give another one")
    return report


def compared(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return ``report`` with what changed since the one at ``path``. Raises ReportError, FileNotFoundError."""
    earlier = load(path)
    try:
        changes = compare(earlier, report)
    except EarlierReportError as error:
        raise ReportError(f"report {path}: {error}; remove it, or give another one") from None
    return {**report, "changes": changes, "compared_with": str(earlier.get("checked", "an unknown time"))}


def save(report: dict[str, Any], directory: Path) -> list[Path]:
    """Write ``HOST.json``, ``HOST.txt`` and ``HOST.html`` and return their paths. Raises OSError."""
    make_directory(directory)
    path = directory / stem(report["host"])
    contents = {
        ".json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        ".txt": "\n".join(table(report)) + "\n",
        ".html": html.host_page(report),
    }
    # No with_suffix: a host's name may have dots of its own.
    paths = [path.with_name(path.name + suffix) for suffix in contents]
    for target, content in zip(paths, contents.values(), strict=True):
        write_file(target, content.encode("utf-8", "replace"), _MODE)
    return paths


def fleet(reports: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    """Return ``{schema_version, verdict, exit_status, hosts, missing}``; a missing host makes the fleet not ready."""
    statuses = [int(report["exit_status"]) for report in reports] + [2] * len(missing)
    verdicts = {str(report["verdict"]) for report in reports} | ({"not ready"} if missing else set())
    worst = next((verdict for verdict in ("not ready", "warnings") if verdict in verdicts), "ready")
    fields = ("verdict", "exit_status", "score", "counts", "checked")
    return {
        "schema_version": 1,
        "verdict": worst,
        "exit_status": max(statuses, default=0),
        "hosts": {report["host"]: {name: report[name] for name in fields} for report in reports},
        "missing": missing,
    }


def fleet_lines(reports: list[dict[str, Any]], missing: list[str]) -> list[str]:
    """Return one line for each host, the worst first: verdict, score, and the ids of its worst findings."""
    width = max([len(report["host"]) for report in reports] + [len(name) for name in missing] + [4])
    lines = [f"{'HOST':<{width}}  {'VERDICT':<9}  {'SCORE':>5}  FINDINGS"]
    lines += [f"{printable(name):<{width}}  {'NO REPORT':<9}  {'':>5}  could not be checked" for name in missing]
    for report in sorted(reports, key=lambda item: (-item["exit_status"], item["score"] or 0, item["host"])):
        worst = next((status for status in (FAIL, RISK, WARN) if report["counts"].get(status)), "")
        names = list(dict.fromkeys(item["id"] for item in report["findings"] if item["status"] == worst))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        counts = ", ".join(
            f"{report['counts'][status]} {status}" for status in STATUSES[:3] if report["counts"].get(status)
        )
        what = f"{counts}: {', '.join(names[:3])}{more}" if worst else "nothing wrong"
        score = "" if report["score"] is None else report["score"]
        lines.append(printable(f"{report['host']:<{width}}  {report['verdict'].upper():<9}  {score:>5}  {what}"))
    return lines


def save_fleet(reports: list[dict[str, Any]], missing: list[str], directory: Path) -> list[Path]:
    """Write ``index.html`` and ``fleet.json`` and return their paths. Raises OSError."""
    make_directory(directory)
    linked = [{**report, "page": f"{stem(report['host'])}.html"} for report in reports]
    paths = [directory / "index.html", directory / "fleet.json"]
    write_file(paths[0], html.fleet_page(linked, missing).encode("utf-8", "replace"), _MODE)
    write_file(paths[1], (json.dumps(fleet(reports, missing), indent=1) + "\n").encode(), _MODE)
    return paths
