# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A report as lines for a terminal. Reports are plain data of precheck-v1.schema.json."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    RISK,
    STATUSES,
    WARN,
)

_STATUS_COLUMNS, _CHECK_COLUMNS, _SUBJECT_COLUMNS = 6, 26, 18
_INDENT = " " * (_STATUS_COLUMNS + 2)


def printable(text: Any) -> str:
    """Return ``text`` without anything that could steer a terminal: what sysfs says is not always text."""
    return "".join(char if char.isprintable() else "?" for char in str(text).replace("\n", " "))


def subject_label(subjects: list[str]) -> str:
    """Return what a finding is about in one column: the host, one thing, or one and how many more."""
    if not subjects:
        return "host"
    return subjects[0] if len(subjects) == 1 else f"{subjects[0]} +{len(subjects) - 1}"


def _wrap(first: str, text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        first + printable(text),
        width,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
        drop_whitespace=True,
        replace_whitespace=False,
    ) or [first]


def _finding_lines(finding: dict[str, Any], width: int) -> Iterator[str]:
    status = str(finding["status"])
    subject = printable(subject_label(finding["subjects"]))
    first = f"{status:<{_STATUS_COLUMNS}}  {finding['id']:<{_CHECK_COLUMNS}}  {subject:<{_SUBJECT_COLUMNS}}  "
    indent = " " * len(f"{'':{_STATUS_COLUMNS}}  {'':{_CHECK_COLUMNS}}  {'':{_SUBJECT_COLUMNS}}  ")
    yield from _wrap(first, finding["evidence"], indent, width)
    if finding["remedy"]:
        # A remedy may be a command of several lines; each must stay fit for copying.
        for number, line in enumerate(str(finding["remedy"]).splitlines()):
            yield f"{_INDENT}{'remedy: ' if number == 0 else '        '}{printable(line)}"


def headline(report: dict[str, Any]) -> list[str]:
    """Return the report's two first lines: the verdict with its score, and the number of findings by status."""
    score = "no score" if report["score"] is None else f"score {report['score']} of 100"
    verdict = str(report["verdict"]).upper()
    counts = "  ".join(f"{report['counts'][status]} {status}" for status in STATUSES if report["counts"][status])
    return [f"{printable(report.get('host', 'this host'))}: {verdict}, {score}", counts]


def table(report: dict[str, Any], show: str = "all", width: int = 120) -> list[str]:
    """Return the report as lines of about ``width`` columns: failures first, each one's remedy below it.

    ``show`` is ``all``, or ``problems`` for FAIL, RISK and WARN only. Remedies are never wrapped.
    """
    shown = STATUSES if show == "all" else (FAIL, RISK, WARN)
    lines = headline(report)
    lines += [printable(f"{name}: {value}") for name, value in report["summary"].items() if value]
    scores = ", ".join(f"{name} {value}" for name, value in report["scores"].items() if value is not None)
    lines += _wrap("scores: ", scores, " " * 8, width)
    for change in report.get("changes") or []:
        where = f" {change['subject']}" if change["subject"] else ""
        lines.append(
            printable(f"changed: {change['id']}{where}: {change['before'] or 'new'} -> {change['after'] or 'gone'}")
        )
    findings = [finding for finding in report["findings"] if finding["status"] in shown]
    if findings:
        lines += [
            "",
            f"{'STATUS':<{_STATUS_COLUMNS}}  {'CHECK':<{_CHECK_COLUMNS}}  {'ON':<{_SUBJECT_COLUMNS}}  FINDING",
        ]
    for finding in findings:
        lines += _finding_lines(finding, width)
    return lines
