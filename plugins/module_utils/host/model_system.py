# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host beside its devices: processor, memory, kernel, boot, security, software.

As in all of `model`: None means unknown, an empty tuple or dict means that there is none. Sizes and units are in the
names.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class System:
    """Which machine and which operating system. ``architecture`` as ``uname -m`` prints it.

    ``virtualization`` is the name of the hypervisor or container this host itself runs in, empty on bare metal.
    ``init`` is systemd or other.
    """

    hostname: str | None = None
    architecture: str | None = None
    vendor: str | None = None
    product: str | None = None
    board: str | None = None
    firmware_version: str | None = None
    firmware_date: str | None = None
    os_id: str | None = None
    os_version: str | None = None
    os_name: str | None = None
    virtualization: str | None = None
    init: str | None = None
    boot_id: str | None = None


@dataclass(frozen=True)
class CpuCore:
    """One core and its hardware threads: numbers of logical CPUs."""

    socket: int | None
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Cpu:
    """Processors. ``vendor`` is intel, amd, arm or the vendor's own name; ``virtualization_flag`` is vmx or svm.

    On arm64 ``virtualization_flag`` is empty: there the hypervisor mode shows only in /dev/kvm. ``smt`` is the kernel's
    word (on, off, forceoff, notsupported, notimplemented). CPU sets are sorted numbers of logical CPUs.
    """

    vendor: str | None = None
    model: str | None = None
    family: int | None = None
    model_number: int | None = None
    stepping: int | None = None
    microcode: str | None = None
    flags: tuple[str, ...] = ()
    virtualization_flag: str | None = None
    under_hypervisor: bool | None = None
    physical_address_bits: int | None = None
    present: tuple[int, ...] = ()
    online: tuple[int, ...] = ()
    isolated: tuple[int, ...] = ()
    nohz_full: tuple[int, ...] = ()
    cores: tuple[CpuCore, ...] = ()
    smt: str | None = None
    governors: tuple[str, ...] = ()
    vulnerabilities: dict[str, str] = field(default_factory=dict)

    @property
    def sockets(self) -> int | None:
        """Return how many sockets the online cores are spread over."""
        return len({core.socket for core in self.cores if core.socket is not None}) or None


@dataclass(frozen=True)
class Kvm:
    """Whether virtual machines run at native speed. ``works`` is proven by making one where this host is the live one.

    ``trouble`` is why it does not, as the end of a sentence. ``two_dimensional_paging`` is EPT or NPT,
    ``interrupt_virtualization`` APICv or AVIC. ``group_members`` are the users in the group that owns /dev/kvm.
    """

    works: bool | None = None
    trouble: str | None = None
    module: str | None = None
    nested: bool | None = None
    two_dimensional_paging: bool | None = None
    interrupt_virtualization: bool | None = None
    group_members: tuple[str, ...] = ()


@dataclass(frozen=True)
class HugepagePool:
    """Huge pages of one size: of the whole host (``node`` None) or of one NUMA node."""

    size_bytes: int
    node: int | None = None
    total: int | None = None
    free: int | None = None
    reserved: int | None = None
    surplus: int | None = None


@dataclass(frozen=True)
class Memory:
    """Memory and huge pages. ``transparent_hugepages`` is always, madvise or never."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    hugepage_default_bytes: int | None = None
    hugepages: tuple[HugepagePool, ...] = ()
    hugetlbfs_mounts: tuple[str, ...] = ()
    transparent_hugepages: str | None = None
    overcommit: int | None = None
    swappiness: int | None = None
    is_ksm_running: bool | None = None


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node; ``distances`` are to all nodes in the order of their numbers, 10 is the node itself."""

    id: int
    cpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
    free_bytes: int | None = None
    distances: tuple[int, ...] = ()


@dataclass(frozen=True)
class Numa:
    """NUMA nodes by number; ``balancing`` is whether the kernel moves pages between them by itself."""

    nodes: dict[int, NumaNode] = field(default_factory=dict)
    balancing: bool | None = None


@dataclass(frozen=True)
class ConfigFile:
    """A setting in a file: where it stands and what it says."""

    path: str
    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Boot:
    """How the host boots. ``firmware`` is uefi or bios; ``loader`` is grub, systemd-boot or none.

    ``loader_evidence`` is what told. ``loader_settings`` are the kernel command lines that the loader's own files hold:
    GRUB_CMDLINE_LINUX and GRUB_CMDLINE_LINUX_DEFAULT of /etc/default/grub and /etc/default/grub.d/*.cfg in the order
    in which GRUB reads them, or /etc/kernel/cmdline (name ``cmdline``). ``initramfs`` is initramfs-tools, dracut or
    mkinitcpio. ``kernels`` are the releases with a kernel in /boot.
    """

    cmdline: str | None = None
    firmware: str | None = None
    loader: str | None = None
    loader_version: str | None = None
    loader_evidence: str | None = None
    loader_settings: tuple[ConfigFile, ...] = ()
    esp_paths: tuple[str, ...] = ()
    initramfs: str | None = None
    kernels: tuple[str, ...] = ()
    is_reboot_required: bool | None = None

    def parameter(self, name: str) -> str | None:
        """Return the last value of a kernel parameter, empty when it stands alone, None when it is not given."""
        found = None
        for word in (self.cmdline or "").split():
            key, _equals, value = word.partition("=")
            if key.replace("-", "_") == name.replace("-", "_"):
                found = value
        return found


@dataclass(frozen=True)
class Kernel:
    """The running kernel. ``config`` holds the build options that decide passthrough, without CONFIG_: y, m, n or text.

    ``taint`` is the bit mask of /proc/sys/kernel/tainted.
    """

    release: str | None = None
    version: str | None = None
    config: dict[str, str] = field(default_factory=dict)
    taint: int | None = None


@dataclass(frozen=True)
class ModprobeLine:
    """A line of modprobe.d: ``verb`` is options, blacklist, softdep, install, remove or alias."""

    path: str
    line: int
    verb: str
    module: str
    rest: str


@dataclass(frozen=True)
class LoadedModule:
    """A module of /proc/modules; ``users`` are the modules that need it."""

    name: str
    size_bytes: int
    references: int
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class NvidiaDriver:
    """The loaded NVIDIA kernel driver."""

    version: str | None = None
    is_open: bool | None = None


@dataclass(frozen=True)
class Modules:
    """Kernel modules, with underscores. ``states`` says of those that matter: loaded, builtin, available or missing.

    ``vfio_aliases`` are the (pattern, module) lines of modules.alias that name variant vfio drivers. ``modprobe`` are
    the lines of modprobe.d that configure, block or order one of the modules that matter. ``load_at_boot`` are those
    of modules-load.d and /etc/modules.
    """

    loaded: dict[str, LoadedModule] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    vfio_aliases: tuple[tuple[str, str], ...] = ()
    modprobe: tuple[ModprobeLine, ...] = ()
    load_at_boot: tuple[str, ...] = ()
    nvidia: NvidiaDriver | None = None


@dataclass(frozen=True)
class Security:
    """Security posture. ``lockdown`` is none, integrity or confidentiality.

    ``is_signature_enforced`` is whether the kernel refuses unsigned modules. ``mitigations_off`` is whether the command
    line switches side-channel mitigations off as a whole.
    """

    secure_boot: bool | None = None
    secure_boot_setup_mode: bool | None = None
    lockdown: str | None = None
    is_signature_enforced: bool | None = None
    lsms: tuple[str, ...] = ()
    mitigations_off: bool | None = None
    has_tpm: bool | None = None
    kptr_restrict: int | None = None
    dmesg_restrict: int | None = None
    is_kexec_disabled: bool | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of locked memory in bytes; -1 is unlimited. The first two are those of the reading process.

    ``systemd_memlock`` is DefaultLimitMEMLOCK as configured; ``configured`` are the memlock lines of limits.conf.
    """

    memlock_soft_bytes: int | None = None
    memlock_hard_bytes: int | None = None
    systemd_memlock: str | None = None
    configured: tuple[ConfigFile, ...] = ()
    max_map_count: int | None = None
    pid_max: int | None = None
    file_max: int | None = None


@dataclass(frozen=True)
class Cgroups:
    """Control groups: ``layout`` is unified, hybrid or legacy; ``controllers`` are those the layout's root offers."""

    layout: str | None = None
    controllers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A program that is installed; ``version`` only where a package or file says it."""

    name: str
    path: str
    version: str | None = None
    package: str | None = None


@dataclass(frozen=True)
class Vmm:
    """Virtual machine monitors and what they need beside them (firmware files, helpers), by name."""

    programs: dict[str, Program] = field(default_factory=dict)
    firmware_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confidential:
    """Confidential computing as the host offers it: AMD's SEV family and Intel's TDX, as kvm's parameters say.

    ``flags`` are the CPU's own words for it; ``is_guest`` is whether this host is itself such a guest.
    """

    flags: tuple[str, ...] = ()
    sev: bool | None = None
    sev_es: bool | None = None
    sev_snp: bool | None = None
    tdx: bool | None = None
    is_memory_encrypted: bool | None = None
    is_guest: bool | None = None


@dataclass(frozen=True)
class Packages:
    """Installed packages that matter (`packages.NAMES`), name to version; ``manager`` is dpkg, rpm or None.

    ``count`` is how many are installed in all. ``half_installed`` are those that dpkg left unconfigured.
    """

    manager: str | None = None
    count: int | None = None
    installed: dict[str, str] = field(default_factory=dict)
    half_installed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Time:
    """Time synchronisation: ``daemon`` is the service that runs, ``is_synchronized`` what it or the kernel says."""

    daemon: str | None = None
    is_synchronized: bool | None = None
    clocksource: str | None = None
    timezone: str | None = None


@dataclass(frozen=True)
class Processes:
    """How far the search for open handles got: ``unreadable`` counts processes whose files only root may see."""

    scanned: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class Trouble:
    """A file that was there and could not be used: its path and why."""

    path: str
    reason: str
