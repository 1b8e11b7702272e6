"""Trees captured in emulated hosts: what a real kernel writes reads as what the machine was made of."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from tests.support.machines import DATA

Machine = Callable[[str], Host]
_GPU = "0000:01:00.0"


def test_no_guest_has_troubles(machine: Machine) -> None:
    names = sorted(path.name.removesuffix(".tree.json") for path in DATA.glob("guest-*.tree.json"))
    assert names == ["guest-healthy", "guest-no-iommu", "guest-shared-group"]
    for name in names:
        host = machine(name)
        assert host.troubles == ()
        assert host.kvm.works is True
        assert host.kvm.module == "kvm_amd"
        assert host.system.virtualization == "qemu"
        assert (host.boot.loader, host.boot.firmware, host.boot.initramfs) == ("grub", "bios", "initramfs-tools")
        assert host.cgroups.layout == "unified"
        assert host.modules.states["vfio_pci"] == "available"
        assert host.modules.states["nvidia"] == "missing"
        assert host.graphics.boot_display == "0000:00:02.0"


def test_a_healthy_guest(machine: Machine) -> None:
    host = machine("guest-healthy")
    assert host.iommu.acpi_tables == ("DMAR",)
    assert host.iommu.interrupt_remapping is True
    assert host.iommu.interrupt_remapping_supported is True
    assert host.iommu.default_domain == "translated"
    assert host.iommu.units[0].kind == "intel"
    gpu = host.pci.devices[_GPU]
    assert (gpu.class_code, gpu.driver, gpu.upstream) == (0x030200, "virtio-pci", ("0000:00:10.0",))
    assert gpu.nodes == ("/dev/vdb",)
    assert "flr" in gpu.resets
    display, audio = host.pci.devices["0000:02:00.0"], host.pci.devices["0000:02:00.1"]
    assert display.iommu_group == audio.iommu_group != gpu.iommu_group
    assert (display.driver, audio.driver) == ("bochs-drm", "snd_hda_intel")
    assert [each.bdf for each in host.graphics.framebuffers] == ["0000:00:02.0", "0000:02:00.0"]
    assert host.pci.devices["0000:03:00.0"].nodes == ("/dev/nvme0n1", "/dev/nvme0")
    port = host.pci.devices["0000:00:10.0"]
    assert port.is_bridge
    assert port.acs is not None
    assert port.acs.control & 0x1D == 0x1D
    assert not host.pci.devices["0000:00:1f.0"].is_bridge


def test_the_disk_and_the_network_that_a_guest_runs_on(machine: Machine) -> None:
    host = machine("guest-healthy")
    (root,) = host.storage.uses
    assert (root.purpose, root.pci_devices) == ("mount /", ("0000:00:15.0", "0000:06:00.0"))
    assert host.network.default_route_interfaces == ("enp5s0",)
    assert host.network.interfaces["enp5s0"].pci_devices == ("0000:00:14.0", "0000:05:00.0")
    assert host.network.interfaces["enp5s0"].driver == "virtio_net"


def test_a_guest_without_an_iommu(machine: Machine) -> None:
    host = machine("guest-no-iommu")
    assert not host.iommu.is_on
    assert host.iommu.acpi_tables == ()
    assert host.iommu.units == ()
    assert host.iommu.interrupt_remapping is False
    assert host.pci.devices[_GPU].iommu_group is None
    port = host.pci.devices["0000:00:10.0"]
    assert port.acs is not None
    assert port.acs.control == 0


def test_a_guest_whose_ports_do_not_isolate(machine: Machine) -> None:
    host = machine("guest-shared-group")
    assert host.iommu.interrupt_remapping is False
    first, second = host.pci.devices[_GPU], host.pci.devices["0000:02:00.0"]
    assert first.iommu_group == second.iommu_group
    members = host.iommu.groups[first.iommu_group or 0].devices
    assert [bdf for bdf in members if host.pci.devices[bdf].is_bridge] == ["0000:00:10.0", "0000:00:10.1"]
    assert all(host.pci.devices[bdf].acs is None for bdf in ("0000:00:10.0", "0000:00:10.1"))
    sriov = host.pci.devices["0000:03:00.0"].sriov
    assert sriov is not None
    assert (sriov.total_vfs, sriov.num_vfs) == (2, 0)
