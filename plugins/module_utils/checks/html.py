# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A report, or those of a fleet, as one HTML page that needs nothing beside itself: no script, font, image or network.

Every text is escaped: a host's sysfs is not trusted. Statuses are words and shapes, colour only repeats them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks import drawing
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import MEANING, STATUSES
from ansible_collections.vllmd.platform.plugins.module_utils.checks.text import printable

_STYLE = """
:root{color-scheme:light dark;--line:#8886;
--fail:#b3261e;--risk:#8a2c91;--warn:#8a5a00;--skip:#3c6670;--info:#2f5fa8;--pass:#2c6e35}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1360px;padding:24px}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0 8px}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:5px 10px 5px 0;border-top:1px solid var(--line)}
th{font-weight:600}td{overflow-wrap:anywhere}.narrow{white-space:nowrap;width:1%}small{opacity:.8}
code,pre,.id{font:13px ui-monospace,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;padding:6px 10px;border-left:3px solid}
.s{display:inline-block;min-width:44px;text-align:center;padding:0 6px;border:2px solid;border-radius:4px;
font:bold 12px/18px ui-monospace,monospace}
.FAIL{color:var(--fail);border:4px double}.RISK{color:var(--risk)}.WARN{color:var(--warn);border-style:dashed}
.SKIP{color:var(--skip);border-style:dotted}.INFO{color:var(--info);border-width:1px}
.PASS{color:var(--pass);border-color:transparent}
.fleet th span{writing-mode:vertical-rl;font-weight:normal}.fleet td,.fleet th{vertical-align:bottom}
.fleet .meter{width:48px}.meter{width:120px;height:10px}details>summary{cursor:pointer}
@media(prefers-color-scheme:dark){:root{
--fail:#ff8a80;--risk:#e6a3ee;--warn:#f0c36b;--skip:#9fd0da;--info:#a8c7fa;--pass:#8fd19a}}
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
{body}
</body></html>
"""
_LEGEND = (
    "Thick boxes are accelerators, dashed ones NVSwitches, dotted ones devices that share a group with an accelerator. "
    "A bracket joins endpoints that can only be handed over together."
)
_REPEATED = 8  # subjects of one finding that are listed before "and N more"


def _e(text: Any) -> str:
    return escape(printable(text))


def _page(title: str, parts: Iterable[str]) -> str:
    return _PAGE.format(title=_e(title), style=_STYLE + drawing.STYLE, body="\n".join(parts))


def _status(status: str) -> str:
    return f'<span class="s {escape(status)}" title="{escape(MEANING.get(status, ""))}">{escape(status)}</span>'


def _score(score: int | None) -> str:
    if score is None:
        return "no score"
    return (
        f'{score} <svg class="meter" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="10" fill="none" stroke="currentColor"/>'
        f'<rect width="{score}" height="10" fill="currentColor"/></svg>'
    )


def _counts(report: dict[str, Any], statuses: tuple[str, ...] = STATUSES) -> str:
    counts = report["counts"]
    return " ".join(f"{_status(status)} {counts[status]}" for status in statuses if counts[status])


def _subjects(subjects: list[str]) -> str:
    if not subjects:
        return "host"
    more = f" and {len(subjects) - _REPEATED} more" if len(subjects) > _REPEATED else ""
    return "<br>".join(f"<code>{_e(subject)}</code>" for subject in subjects[:_REPEATED]) + more


def _finding(finding: dict[str, Any]) -> str:
    remedy = finding["remedy"]
    fix = f"<pre>{chr(10).join(_e(line) for line in remedy.splitlines())}</pre>" if remedy else ""
    return (
        f'<tr><td class="narrow">{_status(finding["status"])}</td>'
        f'<td><b>{_e(finding["title"])}</b><br><span class="id">{_e(finding["id"])}</span></td>'
        f'<td class="narrow">{_subjects(finding["subjects"])}</td><td>{_e(finding["evidence"])}{fix}'
        f"<details><summary><small>why, and where it says so</small></summary><small>{_e(finding['why'])}"
        f"<br>{_e(finding['reference'])}</small></details></td></tr>"
    )


def _head(*names: str) -> str:
    return f"<thead><tr>{''.join(f'<th>{_e(name)}</th>' for name in names)}</tr></thead>"


def _rows(pairs: Iterable[tuple[str, str]], kind: str = "narrow") -> str:
    """Return a table of names and values; the values are HTML already."""
    rows = "".join(f'<tr><th class="{kind}">{_e(name)}</th><td>{value}</td></tr>' for name, value in pairs)
    return f"<table><tbody>{rows}</tbody></table>"


def _findings(report: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Findings</h2><table>"
    yield _head("Status", "Check", "On", "What was found, and what to do") + "<tbody>"
    for finding in report["findings"]:
        yield _finding(finding)
    yield "</tbody></table>"


def _changes(report: dict[str, Any]) -> Iterator[str]:
    changes = report.get("changes")
    if changes is None:
        return
    yield f"<h2>Since the report of {_e(report.get('compared_with', 'an earlier run'))}</h2>"
    if not changes:
        yield "<p>No finding changed its status.</p>"
        return
    yield "<table><tbody>"
    for change in changes:
        before = _status(change["before"]) if change["before"] else "new"
        after = _status(change["after"]) if change["after"] else "gone"
        name = _e(f"{change['id']} {change['subject']}")
        yield f'<tr><td class="narrow">{before} to {after}</td><td class="id">{name}</td>'
        yield f"<td>{_e(change['evidence'])}</td></tr>"
    yield "</tbody></table>"


def _host(report: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{_e(report['host'])}: {_e(report['verdict'])}</h1>"
    yield f"<p>Score {_score(report['score'])} of 100 · {_counts(report)} · checked {_e(report['checked'])}</p>"
    yield _rows((name, _e(value)) for name, value in report["summary"].items() if value)
    yield f"<h2>Topology</h2><p><small>{_LEGEND}</small></p>"
    yield drawing.draw(report["topology"])
    yield from _changes(report)
    yield from _findings(report)
    yield "<h2>Scores</h2>"
    yield _rows((name, _score(value)) for name, value in report["scores"].items())
    yield "<h2>Policy</h2>"
    lists = {name: value if isinstance(value, list) else [value] for name, value in report["policy"].items()}
    shown = ((name, f"<code>{_e(', '.join(map(str, values)))}</code>") for name, values in lists.items())
    yield _rows(shown, "narrow id")


def host_page(report: dict[str, Any]) -> str:
    """Return the page of one host. ``report`` is of precheck-v1.schema.json."""
    return _page(f"Precheck of {report['host']}", _host(report))


def _fleet_rows(reports: list[dict[str, Any]]) -> Iterator[str]:
    names = list(reports[0]["scores"]) if reports else []
    sideways = "".join(f"<th><span>{_e(name)}</span></th>" for name in names)
    yield '<table class="fleet"><thead><tr><th>Host</th><th>Verdict</th><th>Score</th><th>Findings</th>'
    yield f"{sideways}</tr></thead><tbody>"
    for report in reports:
        values = [report["scores"].get(name) for name in names]
        cells = "".join(f"<td>{'' if value is None else value}</td>" for value in values)
        link = f'<a href="{_e(report["page"])}">{_e(report["host"])}</a>' if report.get("page") else _e(report["host"])
        yield f'<tr><td class="narrow">{link}</td><td class="narrow">{_e(report["verdict"])}</td>'
        yield f"<td>{_score(report['score'])}</td>"
        yield f'<td class="narrow">{_counts(report, STATUSES[:3]) or "nothing wrong"}</td>{cells}</tr>'
    yield "</tbody></table>"


def _fleet_findings(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong, each check once, with the hosts that it is wrong on."""
    titles: dict[str, str] = {}
    wrong: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for finding in report["findings"]:
            if finding["status"] in STATUSES[:3]:
                titles[finding["id"]] = finding["title"]
                hosts = wrong.setdefault((finding["status"], finding["id"]), [])
                hosts += [report["host"]] * (report["host"] not in hosts)
    if not wrong:
        yield "<p>Nothing fails, is a risk or warns.</p>"
        return
    yield f"<table>{_head('Status', 'Check', 'Hosts')}<tbody>"
    for status, check in sorted(wrong, key=lambda key: (STATUSES.index(key[0]), -len(wrong[key]), key[1])):
        hosts = wrong[status, check]
        yield f'<tr><td class="narrow">{_status(status)}</td>'
        yield f'<td><b>{_e(titles[check])}</b><br><span class="id">{_e(check)}</span></td>'
        yield f"<td>{len(hosts)} of {len(reports)}: {_e(', '.join(hosts))}</td></tr>"
    yield "</tbody></table>"


def fleet_page(reports: list[dict[str, Any]], missing: list[str]) -> str:
    """Return one page for all hosts; ``missing`` names those without a report. Equal hosts share a drawing."""
    order = sorted(reports, key=lambda report: (-report["exit_status"], report["score"] or 0, report["host"]))
    parts = [f"<h1>{len(reports)} hosts: {sum(report['verdict'] != 'not ready' for report in reports)} can serve</h1>"]
    if missing:
        parts.append(f"<p><b>No report from:</b> {_e(', '.join(missing))}</p>")
    parts += _fleet_rows(order)
    parts.append("<h2>What to fix, most urgent first</h2>")
    parts += _fleet_findings(order)
    parts.append("<h2>Topology</h2>")
    shapes: dict[str, list[str]] = {}
    for report in order:
        shapes.setdefault(drawing.draw(report["topology"]), []).append(report["host"])
    for number, (svg, hosts) in enumerate(shapes.items()):
        opened = " open" if number == 0 else ""
        parts.append(f"<details{opened}><summary>{len(hosts)}: {_e(', '.join(hosts))}</summary>{svg}</details>")
    return _page(f"Precheck of {len(reports)} hosts", parts)
