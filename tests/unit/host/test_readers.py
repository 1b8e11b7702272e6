"""One rule of one reader at a time, on the smallest host that shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciBar
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.host.tree import Tree, parse_cpu_list, parse_integer
from tests.support.hosts import AUDIO, BRIDGE, GPU, HOST_BRIDGE, ISA, VGA, XHCI, HostTree, host_of

_GPU = "0000:01:00.0"


@pytest.fixture
def host() -> HostTree:
    """Return a host with one GPU below a root port, and an IOMMU."""
    made = HostTree()
    made.x86("intel", "CPU", sockets=1, cores=2)
    made.iommu("intel")
    port = made.pci("0000:00:01.0", "8086:352a", BRIDGE, group=1)
    made.pci(_GPU, "10de:2330", GPU, parent=port, group=2, driver="nvidia")
    return made


def read(tree: HostTree) -> Host:
    return host_of(tree.tree)


def test_an_empty_directory_is_a_host_of_which_nothing_is_known() -> None:
    host = host_of({})
    assert host.troubles == ()
    assert host.pci.devices == {}
    assert host.iommu.is_on is False
    assert host.kvm.works is False
    assert host.boot.loader is None
    assert host.memory.total_bytes is None
    assert host.cpu.virtualization_flag is None


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [
        ("12", 10, 12),
        ("0x1f", 16, 31),
        ("1f", 16, 31),
        ("-1", 10, -1),
        ("1_0", 10, None),
        ("+1", 10, None),
        ("", 10, None),
    ],
)
def test_numbers(text: str, base: int, number: int | None) -> None:
    assert parse_integer(text, base) == number


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-2,5", (0, 1, 2, 5)),
        ("7", (7,)),
        ("", None),
        ("2-1", None),
        ("0-99999999", None),
        ("a", None),
        ("1,,2", None),
    ],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...] | None) -> None:
    assert parse_cpu_list(text) == cpus


def test_garbage_is_named_with_its_file(host: HostTree) -> None:
    place = host.places[_GPU]
    host.tree[f"{place}/numa_node"] = "many\n"
    host.tree[f"{place}/resource"] = "0x0 0x1\n"
    found = read(host)
    assert found.pci.devices[_GPU].numa_node is None
    assert [(trouble.path, trouble.reason) for trouble in found.troubles] == [
        (f"/{place}/numa_node", "found 'many', expected a number"),
        (f"/{place}/resource", "line 1: found b'0x0 0x1', expected start, end and flags"),
    ]


def test_a_file_that_cannot_be_read_is_a_trouble() -> None:
    # Reading a process's memory at address 0 fails for everyone.
    found = host_of({"proc/meminfo": {"link": "/proc/self/mem"}})
    assert [(each.path, each.reason) for each in found.troubles] == [("/proc/meminfo", "Input/output error")]


def test_a_fifo_in_the_place_of_a_file_does_not_stop_the_reader(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc/meminfo")
    assert read_host(str(tmp_path)).memory.total_bytes is None


def test_a_device_without_uevent_is_read_from_its_own_files(host: HostTree) -> None:
    host.tree.pop(f"{host.places[_GPU]}/uevent")
    device = read(host).pci.devices[_GPU]
    assert (device.id, device.class_code, device.driver) == ("10de:2330", GPU, "nvidia")
    assert device.modalias is not None
    assert device.modalias.startswith("pci:v000010DEd00002330sv")


@pytest.mark.parametrize(
    ("class_code", "driver", "is_bridge"),
    [
        (BRIDGE, "pcieport", True),
        (HOST_BRIDGE, None, True),
        (HOST_BRIDGE, "ie31200_edac", False),
        (ISA, "lpc_ich", False),
        (0x068000, "nvidia-nvswitch", False),
        (GPU, None, False),
    ],
)
def test_what_counts_as_a_bridge(class_code: int, driver: str | None, is_bridge: bool, host: HostTree) -> None:
    host.pci("0000:05:00.0", "8086:0001", class_code, driver=driver)
    assert read(host).pci.devices["0000:05:00.0"].is_bridge is is_bridge


def test_bars_of_every_kind(host: HostTree) -> None:
    unused = "0x0000000000000000 0x0000000000000000 0x0000000000000000"
    rows = [
        "0x00000000fb000000 0x00000000fbffffff 0x0000000000040200",
        "0x0000002000000000 0x0000003fffffffff 0x000000000014220c",
        unused,
        "0x0000000000000000 0x00000000000fffff 0x0000000020040200",
        "0x000000000000e000 0x000000000000e07f 0x0000000000040101",
        unused,
        "0x00000000fc000000 0x00000000fc07ffff 0x0000000000046200",
        "0x0000004000000000 0x00000040ffffffff 0x000000000014220c",
    ]
    host.text(f"{host.places[_GPU]}/resource", "\n".join(rows))
    device = read(host).pci.devices[_GPU]
    assert device.bars == (
        PciBar(0, 0xFB000000, 1 << 24, True, False, False),
        PciBar(1, 0x2000000000, 1 << 37, True, True, True),
        PciBar(3, 0, 1 << 20, True, False, False),
        PciBar(4, 0xE000, 128, False, False, False),
        PciBar(6, 0xFC000000, 1 << 19, True, False, True),
    )
    assert device.bars_bytes == (1 << 24) + (1 << 37) + (1 << 20)
    assert device.windows == ()


def test_virtual_functions_are_counted_by_number(host: HostTree) -> None:
    place = host.places[_GPU]
    host.text(f"{place}/sriov_totalvfs", 16)
    host.text(f"{place}/sriov_numvfs", 11)
    for index in range(11):
        host.link(f"{place}/virtfn{index}", f"{place.rpartition('/')[0]}/0000:01:01.{index % 8}")
    sriov = read(host).pci.devices[_GPU].sriov
    assert sriov is not None
    assert (sriov.total_vfs, sriov.num_vfs) == (16, 11)
    assert sriov.virtual_functions[:3] == ("0000:01:01.0", "0000:01:01.1", "0000:01:01.2")


@pytest.mark.parametrize(("speed", "width"), [("Unknown", "0"), ("", ""), ("16.0 GT/s", "255")])
def test_a_link_that_is_down_is_unknown(speed: str, width: str, host: HostTree) -> None:
    place = host.places[_GPU]
    host.text(f"{place}/current_link_speed", speed)
    host.text(f"{place}/current_link_width", width)
    host.text(f"{place}/max_link_speed", "64.0 GT/s PCIe")
    link = read(host).pci.devices[_GPU].link
    assert link is not None
    assert (link.width_lanes, link.max_speed_gtps) == (None, 64.0)


def test_the_variant_driver_with_fewest_wildcards_wins(host: HostTree) -> None:
    host.text("proc/sys/kernel/osrelease", host.kernel)
    host.tree[f"lib/modules/{host.kernel}/modules.alias"] = (
        "alias pci:v000010DEd00002330sv*sd*bc*sc*i* nvidia\n"
        "alias vfio_pci:v000010DEd*sv*sd*bc*sc*i* wide_vfio_pci\n"
        "alias vfio_pci:v000010DEd00002330sv*sd*bc*sc*i* exact-vfio-pci\n"
        "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
    )
    device = read(host).pci.devices[_GPU]
    assert (device.vfio_module, device.vfio_driver) == ("exact_vfio_pci", "exact_vfio_pci")
    host.directory("sys/module/exact_vfio_pci/drivers/pci:exact-vfio")
    assert read(host).pci.devices[_GPU].vfio_driver == "exact-vfio"


@pytest.mark.parametrize(
    ("chips", "is_remapped"),
    [
        (["XT-PIC", "PCI-MSI", "IR-IO-APIC"], True),
        (["DMAR-MSI", "IO-APIC"], False),
        (["GICv3", "ITS-MSI"], True),
        (["GICv3", "GICv2m-PCI-MSI"], False),
        (["GICv3"], None),
        ([], None),
    ],
)
def test_interrupt_remapping(chips: list[str], is_remapped: bool | None, host: HostTree) -> None:
    host.tree.pop("sys/kernel/irq/1/chip_name")
    for number, chip in enumerate(chips):
        host.text(f"sys/kernel/irq/{number}/chip_name", chip)
    assert read(host).iommu.interrupt_remapping is is_remapped


def test_interrupt_remapping_from_the_old_table(host: HostTree) -> None:
    host.tree.pop("sys/kernel/irq/1/chip_name")
    host.text("proc/interrupts", "  CPU0\n  1: 9 IO-APIC 1-edge i8042\n 24: 5 IR-PCI-MSI-0000:00:01.0 0-edge PCIe")
    assert read(host).iommu.interrupt_remapping is True


def test_default_domains(host: HostTree) -> None:
    assert read(host).iommu.default_domain == "translated"
    host.text("sys/kernel/iommu_groups/1/type", "identity")
    assert read(host).iommu.default_domain == "mixed"
    host.text("sys/kernel/iommu_groups/2/type", "identity")
    assert read(host).iommu.default_domain == "passthrough"


def test_unsafe_switches_of_vfio(host: HostTree) -> None:
    host.text("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y")
    host.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
    host.text("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", 65535)
    iommu = read(host).iommu
    assert (iommu.unsafe_interrupts, iommu.no_iommu, iommu.dma_entry_limit) == (True, False, 65535)


def test_kvm_is_not_its_device_node(host: HostTree) -> None:
    assert read(host).kvm.trouble == "/dev/kvm does not exist"
    host.device_node("dev/kvm", 0o660, 0, 104)
    assert read(host).kvm.works is True
    cpuinfo = host.tree["proc/cpuinfo"]
    assert isinstance(cpuinfo, str)
    host.tree["proc/cpuinfo"] = cpuinfo.replace(" vmx", "")
    kvm = read(host).kvm
    assert (kvm.works, kvm.trouble) == (
        False,
        "/dev/kvm exists, but the CPU shows neither vmx nor svm in /proc/cpuinfo",
    )


def test_handles_are_found_whatever_the_node_is_called(host: HostTree) -> None:
    place = host.places[_GPU]
    host.pci("0000:06:00.0", "8086:a36d", XHCI, driver="xhci_hcd")
    host.link("sys/bus/usb/devices/usb3", f"{host.places['0000:06:00.0']}/usb3")
    host.link("sys/class/drm/card1", f"{place}/drm/card1")
    host.directory(f"{place}/drm/card1")
    host.process(10, "viewer", ("/dev/dri/card1", "/dev/null", "socket:[1]", "/dev/pts/0"))
    host.process(11, "camera", ("/dev/bus/usb/003/002",))
    host.process(12, "dpdk", (f"/{place}/resource0", f"/{place}/vendor"))
    host.process(13, "qemu", ("/dev/vfio/2", "/dev/vfio/vfio", "/dev/kvm"), "vllmd-hypervisor@r1.service")
    host.process(14, "gone", ("/dev/vfio/99", "/dev/nvidia7 (deleted)", "/dev/unknown"))
    found = read(host)
    held = {(handle.pid, handle.path) for handle in found.pci.devices[_GPU].handles}
    assert held == {
        (10, "/dev/dri/card1"),
        (12, f"/{place}/resource0"),
        (13, "/dev/vfio/2"),
        (14, "/dev/nvidia7"),
    }
    assert [handle.pid for handle in found.pci.devices["0000:06:00.0"].handles] == [11]
    assert (
        next(each.unit for each in found.pci.devices[_GPU].handles if each.pid == 13) == "vllmd-hypervisor@r1.service"
    )
    assert found.processes.scanned == 5


def test_a_vfio_group_is_held_by_all_its_endpoints(host: HostTree) -> None:
    host.pci("0000:01:00.1", "10de:10f7", AUDIO, parent="0000:00:01.0", group=2, driver="vfio-pci")
    host.process(13, "qemu", ("/dev/vfio/2",))
    held = [device.bdf for device in read(host).pci.devices.values() if device.handles]
    assert held == [_GPU, "0000:01:00.1"]


def test_kernel_threads_are_not_looked_into(host: HostTree) -> None:
    host.process(77, "kworker", ("/dev/nvidia0",))
    host.text("proc/2/task/2/children", "3 4 77")
    found = read(host)
    assert found.pci.devices[_GPU].handles == ()
    assert found.processes.scanned == 0


def test_the_firmware_s_framebuffer_sits_in_a_bar(host: HostTree) -> None:
    host.pci("0000:07:00.0", "10de:1e07", VGA, bars=(1 << 28,))
    host.text("proc/fb", "0 EFI VGA")
    host.iomem(
        ("200000000000-2fffffffffff : PCI Bus 0000:00",), {"0000:07:00.0": ("efifb", "200000000000-2000007fffff")}
    )
    graphics = read(host).graphics
    assert [(claim.bdf, claim.name, claim.size_bytes) for claim in graphics.claims] == [
        ("0000:07:00.0", "efifb", 8 << 20)
    ]
    assert graphics.framebuffers[0].bdf == "0000:07:00.0"
    assert graphics.boot_display == "0000:07:00.0"


def test_connected_monitors(host: HostTree) -> None:
    for name, status in (("card0-DP-1", "connected"), ("card0-DP-2", "disconnected")):
        host.link(f"sys/class/drm/{name}", f"{host.places[_GPU]}/drm/card0/{name}")
        host.text(f"{host.places[_GPU]}/drm/card0/{name}/status", status)
    assert read(host).graphics.connected == (_GPU,)


def test_grub_s_files_in_its_own_order(host: HostTree) -> None:
    host.present("boot/grub/grub.cfg")
    host.tree["etc/default/grub"] = "# GRUB_CMDLINE_LINUX=old\nGRUB_CMDLINE_LINUX_DEFAULT='quiet splash' # why\n"
    host.tree["etc/default/grub.d/50-x.cfg"] = 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX iommu=pt"\n'
    host.tree["etc/default/grub.d/60-bad.cfg"] = 'GRUB_CMDLINE_LINUX="open\n'
    host.tree["etc/default/grub.d/notes.txt"] = "GRUB_CMDLINE_LINUX=no\n"
    found = read(host)
    assert [(each.path, each.line, each.name, each.value) for each in found.boot.loader_settings] == [
        ("/etc/default/grub", 2, "GRUB_CMDLINE_LINUX_DEFAULT", "quiet splash"),
        ("/etc/default/grub.d/50-x.cfg", 1, "GRUB_CMDLINE_LINUX", "$GRUB_CMDLINE_LINUX iommu=pt"),
        ("/etc/default/grub.d/60-bad.cfg", 1, "GRUB_CMDLINE_LINUX", '"open'),
    ]
    assert [trouble.path for trouble in found.troubles] == ["/etc/default/grub.d/60-bad.cfg"]


def test_the_command_line_s_last_word_counts(host: HostTree) -> None:
    host.text("proc/cmdline", "intel_iommu=off quiet vfio_pci.ids=10de:2330 intel-iommu=on mitigations=off")
    boot = read(host).boot
    assert boot.parameter("intel_iommu") == "on"
    assert boot.parameter("quiet") == ""
    assert boot.parameter("iommu") is None
    assert read(host).security.mitigations_off is True


def test_a_boot_directory_without_a_loader(host: HostTree) -> None:
    host.directory("boot")
    boot = read(host).boot
    assert (boot.loader, boot.initramfs) == ("none", None)
    host.present("boot/loader/entries/debian.conf")
    assert read(host).boot.loader == "systemd-boot"


def test_modprobe_files_hide_those_of_the_same_name(host: HostTree) -> None:
    host.tree["usr/lib/modprobe.d/a.conf"] = "blacklist nouveau\n"
    host.tree["etc/modprobe.d/a.conf"] = "# nothing\n"
    host.tree["etc/modprobe.d/b.conf"] = "options vfio-pci \\\n  ids=10de:2330\nblacklist pcspkr\noptions kvm\n"
    lines = read(host).modules.modprobe
    assert [(line.path, line.line, line.verb, line.module, line.rest) for line in lines] == [
        ("/etc/modprobe.d/b.conf", 2, "options", "vfio_pci", "ids=10de:2330"),
        ("/etc/modprobe.d/b.conf", 4, "options", "kvm", ""),
    ]


def test_memory_locks(host: HostTree) -> None:
    host.tree["proc/self/limits"] = "Max locked memory         unlimited            unlimited            bytes\n"
    host.tree["etc/security/limits.d/vllmd.conf"] = "# no\n@kvm - memlock unlimited # why\nx soft nofile 1\n"
    host.tree["etc/systemd/system.conf"] = "[Manager]\n#DefaultLimitMEMLOCK=8M\nDefaultLimitMEMLOCK=infinity\n"
    limits = read(host).limits
    assert (limits.memlock_soft_bytes, limits.memlock_hard_bytes, limits.systemd_memlock) == (-1, -1, "infinity")
    assert [(each.path, each.line, each.name, each.value) for each in limits.configured] == [
        ("/etc/security/limits.d/vllmd.conf", 2, "@kvm -", "unlimited")
    ]


def test_secure_boot_and_lockdown(host: HostTree) -> None:
    host.directory("sys/firmware/efi")
    assert read(host).security.secure_boot is None
    vendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    host.tree[f"sys/firmware/efi/efivars/SecureBoot-{vendor}"] = {"hex": "0600000001"}
    host.tree[f"sys/firmware/efi/efivars/SetupMode-{vendor}"] = {"hex": "0600"}
    host.text("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    host.text("sys/module/module/parameters/sig_enforce", "Y")
    security = read(host).security
    assert (security.secure_boot, security.secure_boot_setup_mode) == (True, None)
    assert (security.lockdown, security.is_signature_enforced) == ("integrity", True)


def test_confidential_computing(host: HostTree) -> None:
    for name, value in (("sev", "Y"), ("sev_es", "Y"), ("sev_snp", "N")):
        host.text(f"sys/module/kvm_amd/parameters/{name}", value)
    confidential = read(host).confidential
    assert (confidential.sev, confidential.sev_es, confidential.sev_snp, confidential.tdx) == (True, True, False, None)


def test_packages_that_dpkg_left_half_done(host: HostTree) -> None:
    host.tree["var/lib/dpkg/status"] = (
        "Package: ovmf\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: dkms\nStatus: install ok half-configured\nVersion: 2\n\n"
        "Package: swtpm\nStatus: deinstall ok config-files\nVersion: 3\n\n"
        "Package: hello\nStatus: install ok installed\nVersion: 4\n"
    )
    packages = read(host).packages
    assert (packages.manager, packages.count) == ("dpkg", 2)
    assert packages.installed == {"ovmf": "1"}
    assert packages.half_installed == ("dkms",)


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (("sys/fs/cgroup/cgroup.controllers",), "unified"),
        (("sys/fs/cgroup/unified/x", "sys/fs/cgroup/cpu/x"), "hybrid"),
        (("sys/fs/cgroup/cpu/x",), "legacy"),
        ((), None),
    ],
)
def test_cgroup_layouts(files: tuple[str, ...], layout: str | None, host: HostTree) -> None:
    for path in files:
        host.present(path)
    assert read(host).cgroups.layout == layout


def test_captured_notes_that_are_garbage_are_no_notes(host: HostTree, tmp_path: Path) -> None:
    (tmp_path / ".captured.json").write_text('{"nodes": [], "space": {"": "x"}, "kvm": 3}')
    tree = Tree(str(tmp_path))
    assert tree.space("") is None
    assert tree.captured("nodes") == []
