"""Ways to spoil the healthy host, one table: which check must find it, how severe, and what it must say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.host import model as m
from tests.support.healthy_host import (
    GIB,
    GPU,
    GPUS,
    NVME,
    Change,
    added_device,
    both,
    changed,
    changed_device,
    other,
)

PORT = "0000:10:01.0"
AUDIO = other("0000:11:00.1", 0x040300, "snd_hda_intel", 20, vendor_id="10de")
NEIGHBOUR = other("0000:12:00.0", 0x010802, "nvme", 20)
HANDLE = m.OpenHandle(4242, "nvidia-persiste", "/dev/nvidia0", "nvidia-persistenced.service")
VFIO_ON: Change = changed_device(GPU, driver="vfio-pci")
NO_IOMMU: Change = changed("iommu", groups={})


def modprobe(verb: str, module: str, rest: str = "") -> m.ModprobeLine:
    return m.ModprobeLine("/etc/modprobe.d/local.conf", 3, verb, module, rest)


def link(*numbers: float) -> m.PciLink:
    return m.PciLink(numbers[0], int(numbers[1]), numbers[2], int(numbers[3]))


def nodes(**fields: Any) -> Change:
    def change(host: m.Host) -> m.Host:
        return replace(
            host, numa=replace(host.numa, nodes={**host.numa.nodes, 1: replace(host.numa.nodes[1], **fields)})
        )

    return change


def images(**fields: Any) -> Change:
    return lambda host: replace(
        host, storage=replace(host.storage, filesystems=(replace(host.storage.filesystems[0], **fields),))
    )


def uplink(**fields: Any) -> Change:
    return changed("network", interfaces={"eno1": m.Interface("eno1", **fields)})


def kvm_node(mode: int, gid: int = 104, group: str = "kvm") -> Change:
    return lambda host: replace(host, nodes={"/dev/kvm": m.DeviceNode("/dev/kvm", mode, 0, gid, "root", group)})


def pools(*counts: tuple[int | None, int, int]) -> Change:
    return changed("memory", hugepages=tuple(m.HugepagePool(GIB, node, total, free) for node, total, free in counts))


def vfio_node(mode: int, gid: int) -> Change:
    def change(host: m.Host) -> m.Host:
        return replace(VFIO_ON(host), nodes={"/dev/vfio/20": m.DeviceNode("/dev/vfio/20", mode, 0, gid, "root", None)})

    return change


def identity(host: m.Host) -> m.Host:
    groups = {**host.iommu.groups, 20: replace(host.iommu.groups[20], type="identity")}
    return replace(host, iommu=replace(host.iommu, groups=groups, default_domain="mixed"))


def disk_in_group(host: m.Host) -> m.Host:
    return changed_device(NVME, iommu_group=20)(host)


def small_window(host: m.Host) -> m.Host:
    windows = (m.MmioWindow("0000:10", 0x2000_0000_0000, 32 * GIB), *host.pci.windows[1:])
    return replace(host, pci=replace(host.pci, windows=windows))


def one_sided(host: m.Host) -> m.Host:
    return both(*(changed_device(bdf, numa_node=0) for bdf in GPUS))(host)


def rotating(host: m.Host) -> m.Host:
    devices = {**host.storage.devices, "nvme0n1": replace(host.storage.devices["nvme0n1"], is_rotational=True)}
    return replace(host, storage=replace(host.storage, devices=devices))


# (check, what is spoilt, policy, status, a part of the evidence or remedy)
SPOILT: list[tuple[str, Change, dict[str, Any], str, str]] = [
    ("architecture", changed("system", architecture="riscv64"), {}, "FAIL", "riscv64"),
    ("operating-system", changed("system", os_id="ubuntu", os_name="Ubuntu 24.04"), {}, "WARN", "Ubuntu"),
    ("bare-metal", changed("system", virtualization="kvm"), {}, "WARN", "kvm"),
    ("uefi", changed("boot", firmware="bios"), {}, "WARN", "legacy"),
    ("accelerator-count", lambda host: host, {"accelerator_count": 9}, "FAIL", "8, wanted at least 9"),
    ("accelerator-kinds", changed_device(GPU, device_id="20b5"), {}, "WARN", "1 x 10de:20b5"),
    ("facts-complete", lambda host: replace(host, troubles=(m.Trouble("/proc/x", "no"),)), {}, "INFO", "/proc/x"),
    ("facts-complete", changed("cpu", vendor=None), {}, "FAIL", "/proc or /sys"),
    ("cpu-virtualization", changed("cpu", virtualization_flag=""), {}, "FAIL", "firmware setup"),
    ("cpu-virtualization", changed("cpu", virtualization_flag=""), {"kvm": "preferred"}, "WARN", "vmx"),
    ("cpu-paging", changed("kvm", two_dimensional_paging=False), {}, "WARN", "ept=0"),
    ("cpu-count", lambda host: host, {"minimum_cpus": 128}, "FAIL", "64"),
    ("cpu-online", changed("cpu", online=tuple(range(63)), smt="on"), {}, "WARN", "CPUs 63"),
    ("cpu-online", changed("cpu", online=tuple(range(32))), {}, "INFO", "SMT is off"),
    ("cpu-housekeeping", changed("cpu", isolated=tuple(range(1, 64))), {}, "WARN", "left to the host 0"),
    ("cpu-microcode", changed("packages", installed={}), {}, "WARN", "apt-get install intel-microcode"),
    ("cpu-governor", changed("cpu", governors=("powersave",)), {}, "WARN", "powersave"),
    ("cpu-address-width", changed("cpu", physical_address_bits=40), {}, "FAIL", "1024 GiB"),
    ("clocksource", changed("time", clocksource="hpet"), {}, "WARN", "hpet"),
    ("kvm-works", changed("kvm", works=False, trouble="EPERM"), {}, "FAIL", "EPERM"),
    ("kvm-works", changed("kvm", works=False, trouble="EPERM"), {"kvm": "preferred"}, "WARN", "EPERM"),
    ("kvm-permissions", kvm_node(0o666), {}, "RISK", "open to everybody"),
    ("kvm-permissions", kvm_node(0o600, 0, "root"), {}, "WARN", "root alone"),
    ("kvm-permissions", changed("kvm", group_members=()), {}, "INFO", "not in it yet"),
    ("kvm-nested", lambda host: host, {"nested": True}, "FAIL", "kvm_intel nested=1"),
    ("kvm-nested", changed("kvm", nested=True), {}, "INFO", "does not ask"),
    ("kvm-interrupts", changed("kvm", interrupt_virtualization=False), {}, "INFO", "enable_apicv=1"),
    ("iommu-firmware", changed("iommu", acpi_tables=(), groups={}, units=()), {}, "FAIL", "VT-d"),
    ("iommu-firmware", changed("iommu", acpi_tables=(), groups={}, units=()), {"passthrough": "off"}, "INFO", "DMAR"),
    ("iommu-enabled", NO_IOMMU, {}, "FAIL", "intel_iommu=on"),
    ("iommu-enabled", both(NO_IOMMU, changed("boot", loader="systemd-boot")), {}, "FAIL", "/etc/kernel/cmdline"),
    ("iommu-enabled", both(NO_IOMMU, changed("cpu", vendor="amd")), {}, "FAIL", "firmware setup"),
    ("iommu-parameters", changed("boot", cmdline="ro intel_iommu=off"), {}, "FAIL", "intel_iommu=off"),
    ("iommu-translation", identity, {}, "RISK", "20"),
    ("interrupt-remapping", changed("iommu", interrupt_remapping=False), {}, "FAIL", "intremap=on"),
    ("unsafe-interrupts", changed("iommu", unsafe_interrupts=True), {}, "RISK", "echo N"),
    ("unsafe-interrupts", changed("iommu", unsafe_interrupts=True, interrupt_remapping=False), {}, "FAIL", "on"),
    (
        "unsafe-interrupts",
        changed("modules", modprobe=(modprobe("options", "vfio_iommu_type1", "allow_unsafe_interrupts=1"),)),
        {},
        "RISK",
        "local.conf:3",
    ),
    ("no-iommu-mode", changed("iommu", no_iommu=True), {}, "FAIL", "echo N"),
    (
        "no-iommu-mode",
        changed("modules", modprobe=(modprobe("options", "vfio", "enable_unsafe_noiommu_mode=Y"),)),
        {},
        "RISK",
        "local.conf:3",
    ),
    ("posted-interrupts", changed("iommu", posted_interrupts_supported=False), {}, "INFO", "not support"),
    ("dma-entry-limit", changed("iommu", dma_entry_limit=1024), {}, "WARN", "echo 65535"),
    (
        "iommu-address-width",
        changed("iommu", units=(m.IommuUnit("dmar0", "intel", capability=38 << 16),)),
        {},
        "WARN",
        "39",
    ),
    (
        "iommu-large-pages",
        changed("iommu", units=(m.IommuUnit("dmar0", "intel", capability=47 << 16),)),
        {},
        "WARN",
        "4 KiB",
    ),
    ("accelerator-group", changed_device(GPU, iommu_group=None), {}, "FAIL", "no IOMMU group"),
    ("group-isolation", added_device(NEIGHBOUR), {}, "FAIL", NEIGHBOUR.bdf),
    ("group-host-devices", disk_in_group, {}, "FAIL", "mount /"),
    ("group-companions", both(VFIO_ON, added_device(AUDIO)), {}, "FAIL", "snd_hda_intel"),
    ("group-companions", added_device(AUDIO), {}, "INFO", AUDIO.bdf),
    ("acs", changed_device(PORT, acs=m.PciAcs(0b1011111, 0)), {}, "RISK", f"lspci -vvv -s {PORT}"),
    ("acs", changed_device(PORT, acs=m.PciAcs(0b1, 0b1)), {}, "INFO", "RR"),
    ("acs-override", changed("boot", cmdline="ro pcie_acs_override=downstream"), {}, "RISK", "downstream"),
    ("sriov-in-use", changed_device(GPU, sriov=m.PciSriov(16, 4)), {}, "FAIL", "4 virtual functions"),
    ("nvswitch", added_device(other("0000:07:00.0", 0x068000, "", 60, vendor_id="10de")), {}, "INFO", "1 NVSwitches"),
    (
        "nvswitch",
        both(VFIO_ON, added_device(other("0000:07:00.0", 0x068000, "", 60, vendor_id="10de"))),
        {},
        "WARN",
        "fabric",
    ),
    ("shared-upstream", changed_device(GPUS[1], upstream=(PORT,)), {}, "INFO", GPUS[1]),
    ("reset-method", changed_device(GPU, resets=(), can_reset=False), {}, "RISK", "no reset method"),
    ("reset-method", changed_device(GPU, resets=("pm",)), {}, "WARN", "pm"),
    (
        "reset-method",
        both(changed_device(GPU, resets=("bus",)), changed_device(GPUS[1], upstream=(PORT,))),
        {},
        "RISK",
        GPUS[1],
    ),
    ("boot-display", changed_device(GPU, boot_vga=True), {}, "FAIL", "boot display"),
    ("boot-display", changed("graphics", connected=(GPU,)), {}, "WARN", "monitor"),
    ("framebuffer", changed("graphics", claims=(m.BarClaim(GPU, "efifb", 1, 2),)), {}, "FAIL", "efifb"),
    ("bar-assigned", changed_device(GPU, bars=(m.PciBar(2, 0, 64 * GIB, True, True, True),)), {}, "FAIL", "BAR 2"),
    ("bar-size", changed_device(GPU, bars=(m.PciBar(2, 1, GIB // 4, True, True, True),)), {}, "WARN", "256 MiB"),
    ("mmio64", changed_device(GPU, bars=(m.PciBar(2, 2 * GIB, GIB, True, True, True),)), {}, "WARN", "below 4 GiB"),
    (
        "mmio64",
        both(
            changed_device(GPU, bars=(m.PciBar(2, 2 * GIB, GIB, True, True, True),)),
            lambda host: replace(host, pci=replace(host.pci, windows=(m.MmioWindow("0000:10", GIB, 3 * GIB),))),
        ),
        {},
        "FAIL",
        "MMIO High Size",
    ),
    ("mmio64-window", small_window, {}, "WARN", "64 GiB"),
    ("guest-mmio64", lambda host: host, {}, "INFO", "2048 GiB"),
    ("link-width", changed_device(GPU, link=link(32, 8, 32, 16)), {}, "WARN", "reseat"),
    (
        "link-width",
        both(changed_device(GPU, link=link(32, 8, 32, 16)), changed_device(PORT, link=link(32, 8, 32, 8))),
        {},
        "WARN",
        "slot has no more",
    ),
    ("link-speed", changed_device(GPU, link=link(16, 16, 32, 16)), {}, "WARN", "riser"),
    ("link-speed", changed_device(GPU, link=link(2.5, 16, 32, 16)), {}, "INFO", "under load"),
    (
        "link-speed",
        both(changed_device(GPU, link=link(16, 16, 32, 16)), changed_device(PORT, link=link(16, 16, 16, 16))),
        {},
        "WARN",
        "slot is the limit",
    ),
    ("power-state", changed_device(GPU, power_state="D3cold"), {}, "WARN", GPU),
    ("supplier-links", changed_device(GPU, consumers=(NVME,)), {}, "WARN", NVME),
    ("accelerator-driver", changed_device(GPU, driver="nvidia"), {}, "INFO", "nvidia"),
    (
        "open-handles",
        changed_device(GPU, driver="nvidia", handles=(HANDLE,)),
        {},
        "FAIL",
        "systemctl stop nvidia-persistenced",
    ),
    ("open-handles", changed_device(GPU, handles=(replace(HANDLE, unit=None),)), {}, "FAIL", "kill 4242"),
    ("open-handles", changed_device(GPU, driver="vfio-pci", handles=(HANDLE,)), {}, "INFO", "4242"),
    ("open-handles", changed("processes", unreadable=7), {}, "SKIP", "7 processes"),
    ("nouveau", changed_device(GPU, driver="nouveau"), {}, "WARN", "blacklist nouveau"),
    (
        "nvidia-driver",
        changed("modules", loaded={"nvidia": m.LoadedModule("nvidia", 1, 1)}),
        {},
        "WARN",
        "softdep nvidia",
    ),
    (
        "vfio-modules",
        changed("modules", states={"vfio_pci": "missing", "vfio_iommu_type1": "loaded"}),
        {},
        "FAIL",
        "missing",
    ),
    (
        "vfio-variant",
        both(
            changed_device(GPU, vfio_driver="nvgrace-gpu-vfio-pci"),
            changed("modules", states={"nvgrace_gpu_vfio_pci": "missing"}),
        ),
        {},
        "WARN",
        "lacks",
    ),
    ("vfio-variant", changed_device(GPU, vfio_driver="mlx5-vfio-pci", driver="vfio-pci"), {}, "WARN", "wants mlx5"),
    ("vfio-blocked", changed("modules", modprobe=(modprobe("blacklist", "vfio-pci"),)), {}, "FAIL", "local.conf:3"),
    ("vfio-persistent", VFIO_ON, {}, "WARN", "1 bound"),
    ("vfio-permissions", vfio_node(0o600, 0), {}, "WARN", "root alone"),
    ("vfio-permissions", vfio_node(0o666, 104), {}, "RISK", "everybody"),
    ("companion-handles", added_device(replace(AUDIO, handles=(HANDLE,))), {}, "FAIL", "pid 4242"),
    ("memory-size", lambda host: host, {"minimum_memory_gib": 2048}, "FAIL", "2048 GiB"),
    ("hugepages-reserved", pools((None, 0, 0)), {}, "WARN", "none are set aside"),
    ("hugepages-reserved", pools((None, 0, 0)), {"passthrough": "off"}, "INFO", "none"),
    ("hugepages-reserved", lambda host: host, {"hugepages_gib": 600}, "FAIL", "echo 600 >"),
    ("hugepages-reserved", lambda host: host, {"hugepage_size_kib": 2048}, "FAIL", "2048 KiB"),
    ("hugepages-free", pools((None, 4, 1)), {}, "INFO", "1 GiB of 4 GiB"),
    ("hugepages-free", pools((None, 4, 0)), {}, "WARN", "numa_maps"),
    ("hugepages-balance", pools((None, 512, 512), (0, 512, 512), (1, 0, 0)), {}, "WARN", "echo 256"),
    ("transparent-hugepages", changed("memory", transparent_hugepages="never"), {}, "WARN", "madvise"),
    ("memory-lock", changed("limits", memlock_hard_bytes=8 * 1024**2), {}, "INFO", "8 MiB"),
    (
        "memory-lock",
        both(changed("limits", memlock_hard_bytes=8 * 1024**2), changed("system", init="other")),
        {},
        "WARN",
        "memlock unlimited",
    ),
    ("swap", changed("memory", swap_total_bytes=8 * GIB, swap_free_bytes=GIB), {}, "WARN", "7 GiB of 8 GiB"),
    ("swap", changed("memory", swap_total_bytes=8 * GIB, swap_free_bytes=8 * GIB), {}, "INFO", "8 GiB"),
    ("memory-merging", changed("memory", is_ksm_running=True), {}, "RISK", "ksm"),
    ("overcommit", changed("memory", overcommit=2), {}, "WARN", "vm.overcommit_memory=0"),
    ("map-count", changed("limits", max_map_count=4096), {}, "WARN", "4096"),
    ("numa-known", changed_device(GPU, numa_node=None), {}, "WARN", "no known node"),
    ("numa-accelerators", one_sided, {}, "INFO", "node 0: 8"),
    ("numa-memory", nodes(memory_bytes=64 * GIB), {}, "WARN", "node 1 64 GiB"),
    ("numa-balancing", changed("numa", balancing=True), {}, "WARN", "kernel.numa_balancing=0"),
    ("numa-distance", nodes(distances=(60, 10)), {}, "INFO", "60"),
    ("kernel-version", changed("kernel", release="5.4.0-1"), {}, "FAIL", "5.4.0"),
    ("kernel-version", changed("kernel", release="5.15.0-1"), {}, "WARN", "6.1"),
    ("kernel-options", changed("kernel", config={"VFIO": "n"}), {}, "FAIL", "VFIO"),
    ("kernel-taint", changed("kernel", taint=1 << 4), {}, "WARN", "machine check"),
    ("kernel-taint", changed("kernel", taint=1 << 12), {}, "INFO", "out-of-tree"),
    ("boot-loader", changed("boot", loader="none"), {}, "INFO", "none"),
    ("boot-parameters", changed("boot", cmdline="ro intel_iommu=on hugepages=512 iommu=pt"), {}, "WARN", "iommu=pt"),
    ("reboot-pending", changed("boot", is_reboot_required=True), {}, "WARN", "reboot"),
    ("kernel-installed", changed("boot", kernels=("6.12.50",)), {}, "WARN", "6.12.50"),
    ("initramfs", changed("boot", initramfs="mkinitcpio"), {}, "WARN", "mkinitcpio"),
    ("secure-boot", changed("security", secure_boot=False), {}, "WARN", "off"),
    ("secure-boot", changed("security", secure_boot=False), {"secure_boot": True}, "FAIL", "shim-signed"),
    ("secure-boot", changed("security", secure_boot_setup_mode=True), {}, "RISK", "setup mode"),
    ("kernel-lockdown", changed("security", lockdown="none"), {}, "RISK", "lockdown=integrity"),
    ("kernel-lockdown", changed("security", lockdown="none", secure_boot=False), {}, "INFO", "none"),
    ("module-signatures", changed("security", is_signature_enforced=False, lockdown="none"), {}, "RISK", "sig_enforce"),
    ("cpu-vulnerabilities", changed("cpu", vulnerabilities={"mds": "Vulnerable; SMT on"}), {}, "RISK", "mds"),
    ("mitigations", changed("security", mitigations_off=True), {}, "RISK", "mitigations="),
    ("smt", changed("cpu", smt="on", vulnerabilities={"mds": "Mitigation: x; SMT vulnerable"}), {}, "RISK", "nosmt"),
    ("kernel-pointers", changed("security", kptr_restrict=0), {}, "WARN", "kptr_restrict=0"),
    ("mandatory-access", changed("security", lsms=("lockdown",)), {}, "RISK", "apparmor"),
    ("tpm", changed("security", has_tpm=False), {}, "INFO", "none"),
    ("confidential-computing", lambda host: host, {"confidential": "tdx"}, "FAIL", "kvm_intel tdx=1"),
    (
        "confidential-iommu",
        both(changed("cpu", vendor="amd"), changed("boot", cmdline="ro iommu=pt")),
        {"confidential": "sev-snp"},
        "FAIL",
        "passthrough",
    ),
    ("image-space", images(available_bytes=GIB), {}, "FAIL", "1 GiB free"),
    ("image-filesystem", images(type="tmpfs"), {}, "WARN", "does not last"),
    ("image-filesystem", images(is_read_only=True), {}, "FAIL", "remount,rw"),
    ("image-inodes", images(available_inodes=12), {}, "WARN", "12 free"),
    ("image-disk", rotating, {}, "WARN", "nvme0n1 rotates"),
    ("storage-hardware", changed("storage", uses=(m.BlockUse("mount /", "tank", "zfs"),)), {}, "INFO", "tank"),
    ("default-route", changed("network", default_route_interfaces=()), {}, "WARN", "eno1"),
    ("uplink-state", uplink(carrier=False), {}, "FAIL", "ip link set eno1 up"),
    ("uplink-speed", uplink(carrier=True, speed_mbps=100), {}, "WARN", "100 Mbit/s"),
    (
        "network-modules",
        changed("modules", states={"tun": "missing", "vhost_net": "loaded"}),
        {},
        "WARN",
        "tun missing",
    ),
    ("forwarding", changed("network", ipv4_forwarding=False), {}, "INFO", "ip_forward=1"),
    ("storage-network", changed("network", storage_interfaces=("eno1",)), {}, "INFO", "eno1"),
    ("systemd", changed("system", init="other"), {}, "WARN", "other"),
    ("systemd-version", changed("packages", installed={"systemd": "247.3-7"}), {}, "WARN", "247.3-7"),
    ("cgroups", changed("cgroups", layout="hybrid"), {}, "WARN", "hybrid"),
    ("cgroups", changed("cgroups", controllers=("cpu",)), {}, "WARN", "memory"),
    ("time-sync", changed("time", daemon=None, is_synchronized=None), {}, "WARN", "chrony"),
    ("time-sync", changed("time", is_synchronized=False), {}, "WARN", "chronyd runs, but"),
    ("packages-configured", changed("packages", half_installed=("nginx",)), {}, "FAIL", "dpkg --configure -a"),
    ("packages-required", lambda host: host, {"packages": ["rasdaemon"]}, "FAIL", "apt-get install rasdaemon"),
    ("process-limit", changed("limits", pid_max=32768), {}, "WARN", "65536"),
    ("vmm-installed", changed("vmm", programs={}), {}, "WARN", "qemu"),
    (
        "vmm-version",
        changed("vmm", programs={"qemu-system-x86_64": m.Program("qemu-system-x86_64", "/usr/bin/q", "1:5.2+dfsg-11")}),
        {},
        "WARN",
        "at least 7.2",
    ),
    ("guest-firmware", changed("vmm", firmware_files=()), {}, "INFO", "ovmf"),
]

# On a healthy server without VFIO bound these have nothing to look at, or only something to say.
NOT_PASSED = {
    "guest-mmio64": "INFO",
    "confidential-computing": "INFO",
    "confidential-iommu": "SKIP",
    "vfio-persistent": "SKIP",
    "vfio-permissions": "SKIP",
}
# What makes those pass.
PASSED: list[tuple[str, Change, dict[str, Any]]] = [
    ("confidential-computing", changed("confidential", tdx=True), {"confidential": "tdx"}),
    ("confidential-iommu", changed("cpu", vendor="amd"), {"confidential": "any"}),
    ("vfio-persistent", both(VFIO_ON, changed("modules", load_at_boot=("vfio-pci",))), {}),
    ("vfio-permissions", vfio_node(0o660, 104), {}),
    ("nvswitch", both(*(changed_device(bdf, driver="vfio-pci") for bdf in GPUS)), {}),
    ("packages-required", changed("packages", installed={"rasdaemon": "1"}), {"packages": ["rasdaemon"]}),
    ("kvm-nested", changed("kvm", nested=True), {"nested": True}),
    ("reset-method", changed_device(GPU, resets=("bus",)), {}),
    ("iommu-firmware", changed("iommu", acpi_tables=()), {}),
]
