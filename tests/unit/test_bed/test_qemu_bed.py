"""Emulated hosts as QEMU's command line: slots, groups, the host's own devices, mistakes in a description."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[3] / "molecule/shared/module_utils/qemu_bed.py"


@pytest.fixture(scope="module")
def bed() -> ModuleType:
    """The module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("qemu_bed", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def devices(bed: ModuleType, slots: list, **machine: object) -> list[str]:
    """The -device arguments of a host with these slots."""
    described = bed.Machine(slots=bed.parse_slots(slots), **machine)
    arguments = bed.command(described, Path("/state"), Path("/image"), tap=7, mac="52:54:00:00:00:01", root_uuid="u")
    return [value for option, value in pairwise(arguments) if option == "-device"]


def test_functions_of_a_slot_are_one_device_behind_one_port(bed: ModuleType) -> None:
    found = devices(bed, [["display", "audio"]])
    assert "bochs-display,bus=slot0,addr=0x0.0x0,multifunction=on" in found
    assert "intel-hda,id=audio1x1,bus=slot0,addr=0x0.0x1" in found
    assert sum(one.startswith("pcie-root-port") for one in found) == 3  # this one, network, system disk


def test_the_hosts_own_devices_can_be_put_beside_others(bed: ModuleType) -> None:
    found = devices(bed, [["display", "network"], ["gpu", "system_disk"]])
    assert sum(one.startswith("pcie-root-port") for one in found) == 2
    assert any(one.startswith("virtio-net-pci") and one.endswith("bus=slot0,addr=0x0.0x1") for one in found)
    assert any("drive=system," in one and one.endswith("bus=slot1,addr=0x0.0x1") for one in found)


def test_neighbours_without_acs_hang_off_one_port_device(bed: ModuleType) -> None:
    without = {"functions": ["gpu"], "acs": False}
    ports = [one for one in devices(bed, [without, without, ["gpu"]]) if one.startswith("pcie-root-port")]
    addresses = [one.partition("addr=")[2] for one in ports]
    shared = "disable-acs=on,multifunction=on"
    assert addresses[:3] == [f"0x10.0,{shared}", f"0x10.1,{shared}", "0x11.0"]


def test_iommu_comes_before_what_it_translates(bed: ModuleType) -> None:
    assert devices(bed, [["gpu"]])[0] == "intel-iommu,intremap=on"
    assert devices(bed, [["gpu"]], iommu="no_remapping")[0] == "intel-iommu,intremap=off"
    assert not any("iommu," in one for one in devices(bed, [["display"]], iommu="none") if one.startswith("intel"))


def test_each_stand_in_with_a_disk_gets_one(bed: ModuleType) -> None:
    machine = bed.Machine(slots=bed.parse_slots([["gpu"], ["nvme"], ["display"], ["sriov"]]))
    assert bed.disks(machine) == ["gpu1x0", "nvme2x0"]


@pytest.mark.parametrize("slot", [["gpus"], [], "gpu", {"acs": False}, {"functions": "gpu"}])
def test_a_wrong_slot_is_refused_in_one_line(bed: ModuleType, slot: object) -> None:
    with pytest.raises(bed.MachineError, match="names no known functions; there are: audio, display, gpu") as refused:
        bed.parse_slots([slot])
    assert "\n" not in str(refused.value)


def test_too_many_slots_are_refused(bed: ModuleType) -> None:
    with pytest.raises(bed.MachineError, match="room for 14 slots"):
        devices(bed, [["gpu"]] * 13)
