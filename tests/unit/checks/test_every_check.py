"""Every check passes on a healthy server and finds what it is for on one that is spoilt in exactly that way."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.checks import catalog
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import STATUSES, Finding
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import make_policy
from ansible_collections.vllmd.platform.plugins.module_utils.checks.run import run_checks
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from tests.support.healthy_host import Change, healthy_host
from tests.support.spoilt_hosts import NOT_PASSED, PASSED, SPOILT


def findings(host: Host, policy: dict[str, Any], check: str) -> list[Finding]:
    return [finding for finding in run_checks(host, make_policy(policy)).findings if finding.id == check]


@pytest.mark.parametrize(
    ("check", "change", "policy", "status", "text"), SPOILT, ids=[f"{s[0]}-{s[3]}-{s[4]}" for s in SPOILT]
)
def test_finds_what_it_is_for(check: str, change: Change, policy: dict[str, Any], status: str, text: str) -> None:
    found = findings(change(healthy_host()), policy, check)
    worst = min(found, key=lambda finding: STATUSES.index(finding.status))
    assert worst.status == status, found
    assert text in f"{worst.evidence} {worst.remedy} {' '.join(worst.subjects)}", worst
    if status in ("FAIL", "RISK", "WARN"):
        assert worst.remedy, f"{check} says that something is wrong and not what to do"
        assert "{subjects}" not in worst.remedy


@pytest.mark.parametrize("check", [check.id for check in catalog.checks()])
def test_passes_on_a_healthy_server(check: str) -> None:
    found = findings(healthy_host(), {}, check)
    assert {finding.status for finding in found} == {NOT_PASSED.get(check, "PASS")}, found


@pytest.mark.parametrize(("check", "change", "policy"), PASSED, ids=[item[0] for item in PASSED])
def test_passes_where_it_has_something_to_look_at(check: str, change: Change, policy: dict[str, Any]) -> None:
    found = findings(change(healthy_host()), policy, check)
    assert {finding.status for finding in found} == {"PASS"}, found


def test_every_check_has_a_case() -> None:
    assert {case[0] for case in SPOILT} == {check.id for check in catalog.checks()}
    assert len(catalog.checks()) >= 60
