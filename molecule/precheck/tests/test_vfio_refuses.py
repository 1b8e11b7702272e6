"""Role vfio's module refuses a host that cannot isolate a device as a whole, and touches nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "shared/testing"))
from passthrough import binding, functions_of

testinfra_hosts = ["ansible://incapable"]
EXPECTED = {
    "no-remapping": ("no_interrupt_remapping", "interrupts are not remapped"),
    "no-iommu": ("no_iommu", "IOMMU"),
}


def test_refused(host: Any) -> None:
    before = functions_of(host)
    result = binding(host, devices=["01:00.0"])
    code, reason = EXPECTED[host.backend.hostname]
    assert result["failed"]
    assert [refusal["code"] for refusal in result["refusals"]] == [code]
    assert reason in result["msg"]
    assert functions_of(host) == before
