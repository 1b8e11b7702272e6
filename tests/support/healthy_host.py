"""A healthy server with two sockets and eight accelerators, as a Host, and small ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.host import model as m

GIB = 1024**3
GPUS = tuple(f"0000:{bus:02x}:00.0" for bus in (0x11, 0x21, 0x31, 0x41, 0x91, 0xA1, 0xB1, 0xC1))
GPU = GPUS[0]
NVME, NIC, BMC = "0000:02:00.0", "0000:03:00.0", "0000:04:00.0"
_ALL_ACS = m.PciAcs(capability=0b1011111, control=0b11101)
_MGAW_48_AND_LARGE_PAGES = 47 << 16 | 0b11 << 34


def root_port(bdf: str, node: int, group: int) -> m.PciDevice:
    return m.PciDevice(
        bdf=bdf,
        vendor_id="8086",
        device_id="352a",
        class_code=0x060400,
        is_bridge=True,
        driver="pcieport",
        iommu_group=group,
        numa_node=node,
        path=f"devices/pci{bdf[:7]}/{bdf}",
        acs=_ALL_ACS,
        link=m.PciLink(32.0, 16, 32.0, 16),
    )


def gpu(bdf: str, number: int) -> m.PciDevice:
    port = f"{bdf[:6]}0:01.0"
    start = 0x2000_0000_0000 + number * 128 * GIB
    return m.PciDevice(
        bdf=bdf,
        vendor_id="10de",
        device_id="2330",
        class_code=0x030200,
        iommu_group=20 + number,
        numa_node=number // 4,
        path=f"devices/pci{bdf[:6]}0/{port}/{bdf}",
        upstream=(port,),
        boot_vga=False,
        bars=(
            m.PciBar(0, start + 64 * GIB, 16 * 1024**2, True, True, True),
            m.PciBar(2, start, 64 * GIB, True, True, True),
        ),
        bars_bytes=64 * GIB + 16 * 1024**2,
        can_reset=True,
        resets=("flr", "bus"),
        link=m.PciLink(32.0, 16, 32.0, 16),
        sriov=m.PciSriov(16, 0),
        d3cold_allowed=False,
        power_state="D0",
    )


def other(bdf: str, kind: int, driver: str, group: int, **fields: Any) -> m.PciDevice:
    given = {"vendor_id": "144d", "device_id": "a80a", "numa_node": 0, "path": f"devices/pci0000:00/{bdf}", **fields}
    return m.PciDevice(bdf=bdf, class_code=kind, driver=driver, iommu_group=group, **given)


def _devices() -> dict[str, m.PciDevice]:
    devices = [gpu(bdf, number) for number, bdf in enumerate(GPUS)]
    devices += [root_port(device.upstream[0], device.numa_node or 0, 40 + i) for i, device in enumerate(devices)]
    devices += [
        other(NVME, 0x010802, "nvme", 1),
        other(NIC, 0x020000, "mlx5_core", 2, vendor_id="15b3"),
        other(BMC, 0x030000, "ast", 3, vendor_id="1a03", boot_vga=True),
    ]
    return {device.bdf: device for device in sorted(devices, key=lambda device: device.bdf)}


def _groups(devices: dict[str, m.PciDevice]) -> dict[int, m.IommuGroup]:
    members: dict[int, list[str]] = {}
    for device in devices.values():
        if device.iommu_group is not None:
            members.setdefault(device.iommu_group, []).append(device.bdf)
    return {number: m.IommuGroup(number, tuple(bdfs), type="DMA-FQ") for number, bdfs in sorted(members.items())}


def healthy_host() -> m.Host:
    """Return a host on which no check fails, warns or sees a risk."""
    devices = _devices()
    cpus = tuple(range(64))
    pools = [m.HugepagePool(GIB, node, count, count, 0, 0) for node, count in ((None, 512), (0, 256), (1, 256))]
    return m.Host(
        system=m.System(
            hostname="gpu-01",
            architecture="x86_64",
            vendor="Supermicro",
            product="SYS-821GE",
            os_id="debian",
            os_version="13",
            os_name="Debian GNU/Linux 13 (trixie)",
            virtualization="",
            init="systemd",
        ),
        cpu=m.Cpu(
            vendor="intel",
            model="Intel(R) Xeon(R) Platinum 8480+",
            flags=("vmx",),
            virtualization_flag="vmx",
            under_hypervisor=False,
            physical_address_bits=52,
            microcode="0x2b000643",
            present=cpus,
            online=cpus,
            cores=tuple(m.CpuCore(cpu // 32, (cpu,)) for cpu in cpus),
            smt="off",
            governors=("performance",),
            vulnerabilities={"spectre_v2": "Mitigation: Enhanced IBRS", "mds": "Not affected"},
        ),
        kvm=m.Kvm(
            works=True,
            module="kvm_intel",
            nested=False,
            two_dimensional_paging=True,
            interrupt_virtualization=True,
            group_members=("vllmd",),
        ),
        iommu=m.Iommu(
            acpi_tables=("DMAR",),
            units=(m.IommuUnit("dmar0", "intel", capability=_MGAW_48_AND_LARGE_PAGES),),
            groups=_groups(devices),
            default_domain="translated",
            interrupt_remapping=True,
            interrupt_remapping_supported=True,
            interrupt_chip="IR-PCI-MSI",
            posted_interrupts_supported=True,
            unsafe_interrupts=False,
            no_iommu=False,
            dma_entry_limit=65535,
        ),
        pci=m.Pci(
            devices=devices,
            windows=tuple(
                m.MmioWindow(f"{bdf[:6]}0", 0x2000_0000_0000 + number * 128 * GIB, 128 * GIB)
                for number, bdf in enumerate(GPUS)
            ),
        ),
        graphics=m.Graphics(boot_display=BMC),
        memory=m.Memory(
            total_bytes=1024 * GIB,
            available_bytes=400 * GIB,
            swap_total_bytes=0,
            swap_free_bytes=0,
            hugepage_default_bytes=2 * 1024**2,
            hugepages=tuple(pools),
            hugetlbfs_mounts=("/dev/hugepages",),
            transparent_hugepages="madvise",
            overcommit=0,
            swappiness=60,
            is_ksm_running=False,
        ),
        numa=m.Numa(
            nodes={
                0: m.NumaNode(0, cpus[:32], 512 * GIB, 200 * GIB, (10, 21)),
                1: m.NumaNode(1, cpus[32:], 512 * GIB, 200 * GIB, (21, 10)),
            },
            balancing=False,
        ),
        boot=m.Boot(
            cmdline="BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro intel_iommu=on hugepages=512",
            firmware="uefi",
            loader="grub",
            loader_settings=(
                m.ConfigFile("/etc/default/grub", 6, "GRUB_CMDLINE_LINUX", '"intel_iommu=on hugepages=512"'),
            ),
            initramfs="initramfs-tools",
            kernels=("6.12.48+deb13-amd64",),
            is_reboot_required=False,
        ),
        kernel=m.Kernel(
            release="6.12.48+deb13-amd64",
            config={"VFIO": "m", "VFIO_PCI": "m", "VFIO_IOMMU_TYPE1": "m", "IOMMU_SUPPORT": "y"},
            taint=0,
        ),
        modules=m.Modules(
            loaded={"kvm_intel": m.LoadedModule("kvm_intel", 400000, 0)},
            states=dict.fromkeys(("vfio_pci", "vfio_iommu_type1", "tun", "vhost_net"), "available"),
        ),
        security=m.Security(
            secure_boot=True,
            secure_boot_setup_mode=False,
            lockdown="integrity",
            is_signature_enforced=True,
            lsms=("lockdown", "capability", "apparmor"),
            mitigations_off=False,
            has_tpm=True,
            kptr_restrict=1,
            dmesg_restrict=1,
        ),
        storage=m.Storage(
            devices={
                "nvme0n1": m.BlockDevice("nvme0n1", "259:0", is_rotational=False, pci_devices=(NVME,)),
                "nvme0n1p2": m.BlockDevice("nvme0n1p2", "259:2", slaves=("nvme0n1",), pci_devices=(NVME,)),
            },
            uses=(m.BlockUse("mount /", "/dev/nvme0n1p2", "ext4", "nvme0n1p2", (NVME,)),),
            filesystems=(
                m.Filesystem(
                    "/var/lib", "/var/lib/vllmd", "/", "ext4", "/dev/nvme0n1p2", False, 900 * GIB, 500 * GIB, 10**7
                ),
            ),
        ),
        network=m.Network(
            interfaces={"eno1": m.Interface("eno1", "up", speed_mbps=25000, carrier=True, pci_devices=(NIC,))},
            default_route_interfaces=("eno1",),
            ipv4_forwarding=True,
        ),
        vmm=m.Vmm(
            programs={
                "qemu-system-x86_64": m.Program("qemu-system-x86_64", "/usr/bin/qemu-system-x86_64", "1:10.0.2+ds-2")
            },
            firmware_files=("/usr/share/OVMF/OVMF_CODE_4M.fd",),
        ),
        packages=m.Packages(
            manager="dpkg",
            count=420,
            installed={"systemd": "257.8-1~deb13u2", "intel-microcode": "3.20250812.1~deb13u1"},
        ),
        limits=m.Limits(
            memlock_soft_bytes=8 * 1024**2,
            memlock_hard_bytes=-1,
            max_map_count=1048576,
            pid_max=4194304,
        ),
        cgroups=m.Cgroups("unified", ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")),
        time=m.Time("chronyd", True, "tsc"),
        processes=m.Processes(scanned=512, unreadable=0),
        nodes={"/dev/kvm": m.DeviceNode("/dev/kvm", 0o660, 0, 104, "root", "kvm")},
    )


Change = Callable[[m.Host], m.Host]


def changed(part: str, **fields: Any) -> Change:
    """Return a change of some fields of one part, such as ``changed("memory", total_bytes=1)``."""
    return lambda host: replace(host, **{part: replace(getattr(host, part), **fields)})


def changed_device(bdf: str, **fields: Any) -> Change:
    """Return a change of one PCI function's fields; the groups follow."""

    def change(host: m.Host) -> m.Host:
        devices = {**host.pci.devices, bdf: replace(host.pci.devices[bdf], **fields)}
        return with_devices(host, devices)

    return change


def added_device(device: m.PciDevice) -> Change:
    """Return a change that adds a PCI function; the groups follow."""
    return lambda host: with_devices(host, {**host.pci.devices, device.bdf: device})


def with_devices(host: m.Host, devices: dict[str, m.PciDevice]) -> m.Host:
    """Return the host with these PCI functions and the groups that they say they are in."""
    iommu = replace(host.iommu, groups=_groups(devices))
    return replace(host, pci=replace(host.pci, devices=devices), iommu=iommu)


def both(*changes: Change) -> Change:
    """Return a change that is all of ``changes``, one after the other."""

    def change(host: m.Host) -> m.Host:
        for one in changes:
            host = one(host)
        return host

    return change
