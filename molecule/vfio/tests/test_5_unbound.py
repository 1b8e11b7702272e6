"""The way back: every device with its own driver, nothing left behind, also after a reboot."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://gpus"]
BOUND = {"0000:01:00.0": "bochs-drm", "0000:01:00.1": "snd_hda_intel", "0000:02:00.0": "virtio-pci"}
BACK = {"vfio_state": "unbound", "vfio_devices": []}


@pytest.fixture(scope="module")
def own(native: dict[str, str]) -> dict[str, str]:
    """Every function with its own driver."""
    return native | BOUND


def test_every_device_gets_its_own_driver_back(converge_again, functions, own) -> None:
    outcome = converge_again(BACK)
    assert outcome.returncode == 0, outcome.output
    now = functions()
    assert {address: driver for address, (driver, *_) in now.items()} == own
    assert {now[address][1] for address in BOUND} == {"(null)"}


def test_nothing_is_left_behind(host) -> None:
    found = host.check_output("find /etc /usr/local /var/lib/vllmd /run/vllmd -name '*vfio*' 2>/dev/null; true")
    assert found == ""


def test_again_changes_nothing(converge_again) -> None:
    outcome = converge_again(BACK)
    assert outcome.returncode == 0, outcome.output
    assert outcome.changed == 0


@pytest.mark.drill
def test_a_reboot_changes_nothing_either(host, functions, own, reboot) -> None:
    reboot()
    assert {address: driver for address, (driver, *_) in functions().items()} == own
    assert "iommu=pt" not in host.file("/proc/cmdline").content_string.split()
    assert not host.file("/sys/module/vfio_pci").exists
