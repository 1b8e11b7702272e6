"""What the reports say of each host: its fault, with evidence and remedy, and no fault that it has not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from conftest import converge

testinfra_hosts = ["ansible://all"]
REPORT = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "report"
FAILS = {
    "healthy": set(),
    "no-iommu": {"iommu-firmware", "iommu-enabled", "interrupt-remapping"},
    "no-remapping": {"interrupt-remapping"},
    "shared-group": {"group-isolation"},
}


@pytest.fixture
def report(host) -> dict:
    """The report that converge left for the host."""
    return json.loads((REPORT / f"{host.backend.hostname}.json").read_text(encoding="utf-8"))


@pytest.fixture
def findings(report: dict) -> dict[str, list[dict]]:
    """The report's findings by their ids."""
    by_id: dict[str, list[dict]] = {}
    for finding in report["findings"]:
        by_id.setdefault(finding["id"], []).append(finding)
    return by_id


def test_the_hosts_faults_and_no_others(host, findings) -> None:
    failed = {name for name, found in findings.items() if any(one["status"] == "FAIL" for one in found)}
    assert failed == FAILS[host.backend.hostname]


def test_a_host_without_faults_can_be_used(host, report) -> None:
    assert report["exit_status"] == (2 if FAILS[host.backend.hostname] else 0)


def test_every_problem_tells_what_to_do(findings) -> None:
    problems = [one for found in findings.values() for one in found if one["status"] in ("FAIL", "RISK", "WARN")]
    assert problems
    assert [one["id"] for one in problems if not (one["evidence"] and one["why"] and one["remedy"])] == []


def test_evidence_is_what_the_kernel_says(host, findings) -> None:
    groups = len(host.file("/sys/kernel/iommu_groups").listdir())
    evidence = findings["iommu-enabled"][0]["evidence"]
    assert str(groups) in evidence if groups else "IOMMU group" in evidence
    assert findings["accelerator-kinds"][0]["evidence"].endswith("1af4:1042")
    if host.backend.hostname == "shared-group":
        subjects = {subject for one in findings["group-isolation"] for subject in one["subjects"]}
        assert subjects == {"0000:01:00.0", "0000:02:00.0"}


def test_kvm_was_tried_and_not_guessed(host, findings) -> None:
    works = host.file("/dev/kvm").exists
    assert (findings["kvm-works"][0]["status"] == "PASS") == works


def test_the_reports_are_for_people_too(host) -> None:
    page = (REPORT / f"{host.backend.hostname}.html").read_text(encoding="utf-8")
    assert "0000:01:00.0" in page
    assert "<script" not in page
    assert host.backend.hostname in (REPORT / "index.html").read_text(encoding="utf-8")


def test_nothing_was_left_on_the_host(host) -> None:
    assert not host.file("/var/lib/vllmd").exists
    assert host.run("find /tmp /root/.ansible -newer /etc/hostname -name '*precheck*'").stdout == ""


def test_a_host_that_is_not_ready_fails_the_play(host) -> None:
    outcome = converge(host, {"precheck_enforce": True, "precheck_report_dir": ""})
    failed = FAILS[host.backend.hostname]
    assert outcome.returncode == (2 if failed else 0), outcome.output
    assert all(name in outcome.output for name in failed)
