"""A host that cannot isolate a device is refused as a whole."""

from __future__ import annotations

testinfra_hosts = ["ansible://incapable"]
EXPECTED = {
    "unremapped": ("no_interrupt_remapping", "interrupts are not remapped"),
    "without": ("no_iommu", "IOMMU"),
}


def test_refused(host, functions, bind) -> None:
    before = functions()
    result = bind(devices=["01:00.0"])
    code, reason = EXPECTED[host.backend.hostname]
    assert result["failed"]
    assert [refusal["code"] for refusal in result["refusals"]] == [code]
    assert reason in result["msg"]
    assert functions() == before
