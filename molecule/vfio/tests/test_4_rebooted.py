"""The binding holds over a reboot, and is there before the devices' own drivers."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://gpus"]
pytestmark = pytest.mark.usefixtures("rebooted")


@pytest.fixture(scope="module")
def rebooted(reboot) -> None:
    """The host after a reboot."""
    reboot()


def test_the_same_functions_are_bound(functions) -> None:
    bound = sorted(address for address, (driver, *_) in functions().items() if driver == "vfio-pci")
    assert bound == ["0000:01:00.0", "0000:01:00.1", "0000:02:00.0"]


def test_their_own_drivers_never_had_them(host) -> None:
    log = host.check_output("dmesg")
    assert "bochs-drm 0000:03:00.0" in log
    assert "bochs-drm 0000:01:00.0" not in log
    assert "snd_hda_intel 0000:01:00.1" not in log


def test_no_unit_failed(host) -> None:
    assert host.run("systemctl list-units --failed --no-legend --plain").stdout == ""
