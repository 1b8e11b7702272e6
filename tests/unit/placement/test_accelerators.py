"""The planner's table of accelerators beside the guest's hardware profiles, which know the same devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vllmd.platform.plugins.module_utils.placement.accelerators import KNOWN

PROFILES = Path(__file__).resolve().parents[3] / "image-elements/vllmd-runtime/profiles"
DEVICES = [
    device
    for path in sorted(PROFILES.glob("*.yaml"))
    for value in yaml.safe_load(path.read_text(encoding="utf-8")).values()
    if isinstance(value, list)
    for device in value
    if isinstance(device, dict) and "pci" in device
]


def test_profiles_have_devices() -> None:
    assert len(DEVICES) > 20


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device["pci"])
def test_the_planner_knows_what_the_guest_serves(device: dict[str, Any]) -> None:
    known = KNOWN[device["pci"]]
    assert known.is_nvlinked == (device["link"] == "nvlink")
    # The profiles count what the driver leaves, up to a tenth less where ECC takes its part.
    assert known.memory_mib is not None
    assert 0.9 * known.memory_mib <= device["memory_mib"] <= known.memory_mib
