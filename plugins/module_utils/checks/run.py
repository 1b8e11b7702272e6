# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run every check over a host, score the findings and say whether the host is ready."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.checks import catalog
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    SKIP,
    STATUSES,
    WARN,
    Check,
    Finding,
    Outcome,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy, PolicyError, as_dict
from ansible_collections.vllmd.platform.plugins.module_utils.checks.topology import summary, topology
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

SCHEMA_VERSION = 1
READY, WARNINGS, NOT_READY = "ready", "warnings", "not ready"
# By how much a check lowers the score, where PASS counts 1 in its favour. SKIP and INFO do not count.
_WEIGHT = {PASS: 0, WARN: 1, RISK: 3, FAIL: 6}


@dataclass(frozen=True)
class Report:
    """Everything one precheck of one host found."""

    findings: tuple[Finding, ...]
    policy: Policy
    summary: dict[str, Any]
    topology: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by status."""
        return {status: sum(finding.status == status for finding in self.findings) for status in STATUSES}

    @property
    def verdict(self) -> str:
        """READY, WARNINGS (something is WARN or RISK) or NOT_READY (something is FAIL)."""
        counts = self.counts
        if counts[FAIL]:
            return NOT_READY
        return WARNINGS if counts[WARN] or counts[RISK] else READY

    @property
    def exit_status(self) -> int:
        """Return 0 for ready, 1 for warnings under a strict policy, 2 for not ready."""
        return {NOT_READY: 2, WARNINGS: int(self.policy.strict)}.get(self.verdict, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data, the shape of precheck-v1.schema.json without host and time."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "exit_status": self.exit_status,
            "score": score(self.findings),
            "scores": scores(self.findings),
            "counts": self.counts,
            "policy": as_dict(self.policy),
            "summary": self.summary,
            "findings": [finding.as_dict() for finding in self.findings],
            "topology": self.topology,
        }


def score(findings: Iterable[Finding]) -> int | None:
    """Return 0 to 100; None when nothing could be decided.

    Each check counts once however many devices it looked at, by the worst of its findings: eight good GPUs do not
    outweigh a missing IOMMU. It is the share of passed checks, where a WARN weighs as much as one that passed, a RISK
    as three and a FAIL as six.
    """
    worst: dict[str, int] = {}
    for finding in findings:
        if finding.status in _WEIGHT:
            worst[finding.id] = max(_WEIGHT[finding.status], worst.get(finding.id, 0))
    passed = sum(weight == 0 for weight in worst.values())
    return 100 * passed // (passed + sum(worst.values())) if worst else None


def scores(findings: tuple[Finding, ...]) -> dict[str, int | None]:
    """Return the score of each subsystem, in the order of the catalog."""
    return {name: score(item for item in findings if item.subsystem == name) for name in catalog.subsystems()}


def _outcomes(check: Check, host: Host, policy: Policy) -> list[Outcome]:
    """Return what the check answers: at least one outcome, and never an exception.

    A check that breaks is our mistake, and must not hide what the other ones found on the host.
    """
    try:
        answer = check.examine(host, policy)
        outcomes = [answer] if isinstance(answer, Outcome) else list(answer)
    except Exception as error:  # the answer says which check and what, so that it can be reported
        return [Outcome(SKIP, f"the check itself failed, please report it: {type(error).__name__}: {error}")]
    return outcomes or [Outcome(SKIP, "this host has nothing of the kind")]


def _findings(check: Check, host: Host, policy: Policy) -> Iterable[Finding]:
    """Yield the check's findings, outcomes that differ only in their subject as one."""
    merged: dict[tuple[str, str, str], list[str]] = {}
    for outcome in _outcomes(check, host, policy):
        subjects = merged.setdefault((outcome.status, outcome.evidence, outcome.remedy), [])
        if outcome.subject:
            subjects.append(outcome.subject)
    for (status, evidence, remedy), subjects in merged.items():
        accepted = check.id in policy.accept and status in (FAIL, RISK, WARN)
        yield Finding(
            id=check.id,
            subsystem=check.subsystem,
            title=check.title,
            status=INFO if accepted else status,
            subjects=tuple(subjects),
            evidence=f"{evidence} ({status}, accepted by the policy)" if accepted else evidence,
            why=check.why,
            remedy=remedy.replace("{subjects}", " ".join(subjects)),
            reference=check.reference,
        )


def run_checks(host: Host, policy: Policy) -> Report:
    """Return the report of ``host`` under ``policy``: most urgent findings first, then in the order of the catalog.

    PolicyError when the policy accepts a check that does not exist, since its finding would go on failing unexplained.
    """
    known = [check.id for check in catalog.checks()]
    for name in policy.accept:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise PolicyError(
                f"policy key accept: no check is called {name}{f'; did you mean {near[0]}?' if near else ''}"
            )
    found = [finding for check in catalog.checks() for finding in _findings(check, host, policy)]
    found.sort(key=lambda finding: STATUSES.index(finding.status))
    return Report(tuple(found), policy, summary(host, policy), topology(host, policy))
