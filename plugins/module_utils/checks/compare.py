# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What changed between two reports of one host. Reports are plain data of precheck-v1.schema.json."""

from __future__ import annotations

from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import STATUSES


class EarlierReportError(Exception):
    """A saved report that cannot be compared with; str() is one line for a person."""


def _statuses(report: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (status, evidence) by (check, subject); of several findings with one key the worst counts."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    try:
        if report["schema_version"] != 1:
            raise EarlierReportError(f"its schema_version is {report['schema_version']!r}; 1 is wanted")
        for finding in sorted(report["findings"], key=lambda item: STATUSES.index(item["status"]), reverse=True):
            for subject in finding["subjects"] or [""]:
                found[str(finding["id"]), str(subject)] = str(finding["status"]), str(finding["evidence"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EarlierReportError(f"it is no precheck report ({type(error).__name__}: {error})") from None
    return found


def compare(earlier: dict[str, Any], report: dict[str, Any]) -> list[dict[str, str]]:
    """Return ``{id, subject, before, after, evidence}`` for every status that differs, worst new status first.

    ``before`` or ``after`` is an empty string where only one of the reports has the finding. A finding whose evidence
    alone differs (free memory, say) is no change. Raises EarlierReportError.
    """
    before, after = _statuses(earlier), _statuses(report)
    changes = [
        {
            "id": key[0],
            "subject": key[1],
            "before": before.get(key, ("", ""))[0],
            "after": after.get(key, ("", ""))[0],
            "evidence": after.get(key, ("", ""))[1],
        }
        for key in {**before, **after}
        if before.get(key, ("", ""))[0] != after.get(key, ("", ""))[0]
    ]
    return sorted(
        changes,
        key=lambda change: (
            STATUSES.index(change["after"]) if change["after"] else len(STATUSES),
            change["id"],
            change["subject"],
        ),
    )
