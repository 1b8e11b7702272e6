"""Passthrough: one device stands for its IOMMU group, and a group goes whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sysfs import AUDIO, BRIDGE, GPU, FakeHost
from vllmd_hypervisor.devices import expand_devices, normalise_bdf
from vllmd_hypervisor.quantity import GIB

GPU_BDF, AUDIO_BDF = "0000:01:00.0", "0000:01:00.1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.device("0000:00:01.0", 10, "pcieport", BRIDGE)
    host.device(GPU_BDF, 10, "vfio-pci", GPU, bar_bytes=32 * GIB)
    host.device(AUDIO_BDF, 10, "vfio-pci", AUDIO)
    host.device("0000:02:00.0", 11, "nvgrace-gpu-vfio-pci", GPU)
    host.device("0000:03:00.0", 12, "nvidia", GPU)
    host.device("0000:04:00.0", 13, "vfio-pci", GPU)
    host.device("0000:04:00.1", 13, "snd_hda_intel", AUDIO)
    host.device("0000:05:00.0", 14, None, GPU)
    host.device("0000:06:00.0", None, "vfio-pci", GPU)
    host.device("0000:07:00.0", 15, "pcieport", BRIDGE)
    return host


@pytest.mark.parametrize(
    "device",
    [
        "/dev/vfio/10",
        GPU_BDF,
        "01:00.0",
        AUDIO_BDF,
        f"/sys/bus/pci/devices/{GPU_BDF}",
        f"/sys/bus/pci/devices/{GPU_BDF}/",
        f"/sys/devices/pci0000:00/0000:00:01.0/{GPU_BDF}",
    ],
)
def test_every_form_stands_for_the_groups_endpoints(device: str, fake: FakeHost) -> None:
    endpoints, problems = expand_devices((device,), fake.root)
    assert problems == []
    assert [(endpoint.bdf, endpoint.group, endpoint.bar_bytes) for endpoint in endpoints] == [
        (GPU_BDF, 10, 32 * GIB),
        (AUDIO_BDF, 10, 0),
    ]


def test_a_group_named_twice_goes_once(fake: FakeHost) -> None:
    endpoints, problems = expand_devices(("/dev/vfio/10", AUDIO_BDF, "02:00.0"), fake.root)
    assert problems == []
    assert [endpoint.bdf for endpoint in endpoints] == [GPU_BDF, AUDIO_BDF, "0000:02:00.0"]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("/dev/vfio/99", "device /dev/vfio/99: there is no IOMMU group 99 on this host"),
        ("0000:ff:00.0", "device 0000:ff:00.0: there is no PCI device 0000:ff:00.0 on this host"),
        ("/sys/bus/pci/devices/0000:ff:00.0", "there is no PCI device 0000:ff:00.0"),
        ("/dev/nvidia0", "is neither /dev/vfio/GROUP, nor an address like 0000:01:00.0"),
        ("/sys/class/net/eth0", "is neither /dev/vfio/GROUP"),
        ("/dev/vfio/vfio", "is neither /dev/vfio/GROUP"),
        ("0000:03:00.0", "0000:03:00.0 in IOMMU group 12 is bound to nvidia, not to vfio-pci; bind the whole group"),
        ("0000:04:00.0", "0000:04:00.1 in IOMMU group 13 is bound to snd_hda_intel, not to vfio-pci"),
        ("0000:05:00.0", "0000:05:00.0 in IOMMU group 14 has no driver; bind the whole group"),
        ("0000:06:00.0", "has no IOMMU group: the IOMMU is off"),
        ("/dev/vfio/15", "IOMMU group 15 holds no endpoint, only bridges"),
    ],
)
def test_refused(device: str, words: str, fake: FakeHost) -> None:
    _, (problem,) = expand_devices((device,), fake.root)
    assert words in problem


def test_a_group_without_its_node_says_so(fake: FakeHost) -> None:
    (fake.root / "dev/vfio/10").unlink()
    _, (problem,) = expand_devices(("/dev/vfio/10",), fake.root)
    assert problem.endswith("/dev/vfio/10 does not exist; is the module vfio-pci loaded?")


def test_every_bad_device_is_named(fake: FakeHost) -> None:
    _, problems = expand_devices(("/dev/vfio/99", "0000:03:00.0", "/dev/vfio/10"), fake.root)
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("text", "bdf"),
    [
        ("0000:01:00.0", "0000:01:00.0"),
        ("01:00.0", "0000:01:00.0"),
        ("10000:E1:1F.7", "10000:e1:1f.7"),
        ("1:0.0", None),
        ("0000:01:20.0", None),
        ("0000:01:00.8", None),
        ("", None),
    ],
)
def test_pci_addresses(text: str, bdf: str | None) -> None:
    assert normalise_bdf(text) == bdf
