"""A captured host after role vfio: what is with vfio-pci, and what shares a group with the host's own devices."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

BOUND = ("0000:01:00.0", "0000:01:00.1", "0000:02:00.0")


def test_bound_functions_and_no_others_are_with_vfio(machine: Callable[[str], Host]) -> None:
    devices = machine("emulated-bound").pci.devices
    assert tuple(sorted(bdf for bdf, device in devices.items() if device.driver == "vfio-pci")) == BOUND
    assert {devices[bdf].driver_override for bdf in BOUND} == {"vfio-pci"}
    assert devices["0000:03:00.0"].driver == "bochs-drm"


def test_groups_are_the_slots(machine: Callable[[str], Host]) -> None:
    host = machine("emulated-bound")
    devices = host.pci.devices
    assert devices[BOUND[0]].iommu_group == devices[BOUND[1]].iommu_group != devices[BOUND[2]].iommu_group
    shared = devices["0000:03:00.0"].iommu_group
    assert shared is not None
    assert {"0000:03:00.0", "0000:04:00.0"} < set(host.iommu.groups[shared].devices)


def test_the_hosts_own_devices_sit_beside_stand_ins(machine: Callable[[str], Host]) -> None:
    host = machine("emulated-bound")
    (root,) = host.storage.uses
    assert "0000:07:00.1" in root.pci_devices
    (interface,) = host.network.default_route_interfaces
    assert "0000:06:00.1" in host.network.interfaces[interface].pci_devices
    assert host.pci.devices["0000:05:00.0"].class_code == 0x010802
