"""The four machines read as what they are: topology, groups, drivers, who uses what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice
from tests.support.machines import DATA, MACHINES
from tests.support.trees import dump

Machine = Callable[[str], Host]
GIB = 1 << 30


def gpus(host: Host) -> list[PciDevice]:
    return [device for device in host.pci.devices.values() if device.class_code == 0x030200]


@pytest.mark.parametrize("name", MACHINES)
def test_the_data_is_what_the_descriptions_make(name: str) -> None:
    assert (DATA / f"{name}.tree.json").read_text() == dump(MACHINES[name]().tree)


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_odd_and_kvm_works(name: str, machine: Machine) -> None:
    host = machine(name)
    assert host.troubles == ()
    assert host.kvm.works is True
    assert host.kvm.group_members == ("vllmd",)
    assert host.iommu.is_on
    assert host.iommu.interrupt_remapping is True
    assert host.iommu.default_domain == "translated"
    assert host.boot.is_reboot_required is False
    assert host.security.lockdown == "none"
    assert host.security.secure_boot is False
    assert host.system.init == "systemd"
    assert host.system.virtualization == ""


def test_hgx_gpus_sit_behind_switches_on_both_sockets(machine: Machine) -> None:
    host = machine("hgx-h100")
    assert [gpu.numa_node for gpu in gpus(host)] == [0] * 4 + [1] * 4
    assert len({gpu.iommu_group for gpu in gpus(host)}) == 8
    first = gpus(host)[0]
    assert first.id == "10de:2330"
    assert first.subsystem_device_id == "16c1"
    assert first.upstream == ("0000:15:01.0", "0000:16:00.0", "0000:17:00.0")
    assert first.bars_bytes == 128 * GIB + 48 * (1 << 20)
    assert [bar.index for bar in first.bars] == [0, 2, 4]
    assert first.link is not None
    assert (first.link.speed_gtps, first.link.width_lanes) == (32.0, 16)
    assert first.sriov is not None
    assert (first.sriov.total_vfs, first.sriov.num_vfs) == (16, 0)
    assert first.slot == "GPU1"
    assert host.cpu.sockets == 2
    assert len(host.cpu.cores) == 112


def test_hgx_nvswitches_share_a_group_with_their_bridges(machine: Machine) -> None:
    host = machine("hgx-h100")
    switches = [device for device in host.pci.devices.values() if device.class_code == 0x068000]
    assert len(switches) == 4
    assert {device.iommu_group for device in switches} == {114}
    assert not any(device.is_bridge for device in switches)
    members = host.iommu.groups[114].devices
    assert sum(host.pci.devices[bdf].is_bridge for bdf in members) == 5
    assert all(host.pci.devices[bdf].acs is None for bdf in members)


def test_hgx_every_gpu_is_held_by_persistenced_alone(machine: Machine) -> None:
    host = machine("hgx-h100")
    for minor, gpu in enumerate(gpus(host)):
        (handle,) = gpu.handles
        assert (handle.pid, handle.command, handle.path) == (1410, "nvidia-persiste", f"/dev/nvidia{minor}")
        assert handle.unit == "nvidia-persistenced.service"
    assert host.pci.devices["0000:05:00.0"].handles[0].unit == "nvidia-fabricmanager.service"
    assert host.modules.nvidia is not None
    assert (host.modules.nvidia.version, host.modules.nvidia.is_open) == ("580.95.05", True)


def test_hgx_root_is_on_lvm_and_the_network_on_a_bond(machine: Machine) -> None:
    host = machine("hgx-h100")
    by_purpose = {use.purpose: use for use in host.storage.uses}
    assert set(by_purpose) == {"mount /", "mount /boot", "mount /boot/efi", "swap"}
    assert all(use.pci_devices == ("0000:3d:01.0", "0000:3e:00.0") for use in by_purpose.values())
    assert by_purpose["mount /"].device == "dm-0"
    assert by_purpose["swap"].device == "dm-1"
    assert host.network.default_route_interfaces == ("bond0",)
    assert host.network.ssh_interfaces == ("bond0",)
    assert host.network.interfaces["bond0"].pci_devices == ("0000:6d:01.0", "0000:6e:00.0", "0000:6e:00.1")


def test_hgx_memory(machine: Machine) -> None:
    host = machine("hgx-h100")
    assert host.memory.total_bytes == 2048 * GIB
    whole = [pool for pool in host.memory.hugepages if pool.node is None and pool.size_bytes == GIB]
    assert [(pool.total, pool.free, pool.reserved) for pool in whole] == [(960, 960, 0)]
    assert host.numa.nodes[1].distances == (21, 10)
    assert host.numa.nodes[1].cpus[:2] == (56, 57)
    assert host.pci.windows[0].size_bytes == 16 << 40


def test_epyc_is_ready(machine: Machine) -> None:
    host = machine("epyc-l40s")
    assert host.cpu.vendor == "amd"
    assert host.cpu.virtualization_flag == "svm"
    assert host.iommu.acpi_tables == ("IVRS",)
    assert host.iommu.interrupt_remapping_supported is True
    assert [(gpu.driver, gpu.handles, gpu.resets) for gpu in gpus(host)] == [(None, (), ("flr", "bus"))] * 2
    assert [host.iommu.groups[gpu.iommu_group or 0].devices for gpu in gpus(host)] == [
        ("0000:01:00.0",),
        ("0000:41:00.0",),
    ]
    root_port = host.pci.devices["0000:00:01.1"]
    assert root_port.acs is not None
    assert (root_port.acs.capability, root_port.acs.control) == (0x1F, 0x1D)
    assert host.boot.loader == "systemd-boot"
    assert host.boot.loader_version == "257.8-1~deb13u2"
    assert [(each.name, each.value) for each in host.boot.loader_settings] == [
        ("cmdline", "root=/dev/nvme0n1p2 ro iommu=pt")
    ]
    assert {line.verb for line in host.modules.modprobe} == {"softdep"}
    assert host.modules.load_at_boot == ("vfio_pci",)
    assert host.modules.states["vfio_iommu_type1"] == "available"
    assert host.modules.states["vfio_pci"] == "loaded"
    assert host.modules.states["nvidia"] == "missing"
    assert host.graphics.boot_display == "0000:03:00.0"


def test_desktop_group_is_shared_and_held(machine: Machine) -> None:
    host = machine("desktop")
    members = host.iommu.groups[1].devices
    assert members == ("0000:00:01.0", "0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:01:00.3")
    gpu, audio = host.pci.devices["0000:01:00.0"], host.pci.devices["0000:01:00.1"]
    assert [handle.command for handle in gpu.handles] == ["Xorg"]
    assert [handle.command for handle in audio.handles] == ["pipewire"]
    assert gpu.consumers == ("0000:01:00.1",)
    assert audio.suppliers == ("0000:01:00.0",)
    assert gpu.has_rom
    assert gpu.boot_vga is False
    assert host.graphics.boot_display == "0000:00:02.0"
    assert host.graphics.framebuffers[0].bdf == "0000:00:02.0"
    assert not host.pci.devices["0000:00:1f.0"].is_bridge
    assert host.pci.devices["0000:00:00.0"].is_bridge
    assert host.boot.loader == "grub"
    assert [each.name for each in host.boot.loader_settings] == ["GRUB_CMDLINE_LINUX_DEFAULT", "GRUB_CMDLINE_LINUX"]


def test_grace_has_a_variant_driver_and_memory_without_cpus(machine: Machine) -> None:
    host = machine("grace-hopper")
    (gpu,) = gpus(host)
    assert gpu.bdf == "0009:01:00.0"
    assert (gpu.vfio_module, gpu.vfio_driver) == ("nvgrace_gpu_vfio_pci", "nvgrace_gpu_vfio_pci")
    assert host.pci.devices["0004:01:00.0"].vfio_driver == "vfio-pci"
    assert host.system.architecture == "aarch64"
    assert host.cpu.vendor == "arm"
    assert host.cpu.virtualization_flag == ""
    assert host.iommu.units[0].kind == "smmu"
    assert host.numa.nodes[1].cpus == ()
    assert gpu.link is not None
    assert (gpu.link.width_lanes, gpu.link.max_width_lanes) == (1, 16)
