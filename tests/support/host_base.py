"""The part of a host's files that is no device: processor, memory, NUMA nodes, processes, device nodes."""

from __future__ import annotations

import os
from typing import Any

from tests.support.trees import CAPTURED, Tree

GIB = 1 << 30
_X86_FLAGS = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge cmov pat clflush mmx fxsr sse sse2 ht nx pdpe1gb lm aes avx2"
)
_VENDORS = {"intel": ("GenuineIntel", "vmx", 6, 143), "amd": ("AuthenticAMD", "svm", 25, 17)}


class BaseTree:
    """A host's files, built piece by piece. Paths have no leading slash."""

    def __init__(self, kernel: str = "6.12.43+deb13-amd64") -> None:
        self.kernel = kernel
        self.tree: Tree = {}
        self.places: dict[str, str] = {}
        self._next_bar = 0x200000000000
        self.cpus = 1
        self._captured: dict[str, Any] = {
            "nodes": {},
            "space": {},
            "kvm": {"works": True},
            "is_time_synchronized": True,
        }
        self._mounts: list[str] = []
        self._routes: list[str] = []
        self._iomem: list[str] = []
        self.tree[CAPTURED] = {"json": self._captured}

    def text(self, path: str, content: object) -> None:
        """Write a file whose content ends with a line feed, as sysfs and procfs have them."""
        self.tree[path] = f"{content}\n"

    def link(self, path: str, target: str) -> None:
        """Point ``path`` at ``target``, both from the root, with a relative link as sysfs does."""
        self.tree[path] = {"link": os.path.relpath(f"/{target}", os.path.dirname(f"/{path}"))}  # noqa: PTH120

    def directory(self, path: str) -> None:
        """Make an empty directory."""
        self.tree[path] = {"dir": True}

    def present(self, path: str) -> None:
        """Make an empty file."""
        self.tree[path] = {"size": 0}

    # The processor and the memory.

    def x86(self, vendor: str, model: str, sockets: int, cores: int, *, threads: int = 2, bits: int = 52) -> None:
        """Add processors; CPUs are numbered as Linux does: all cores first, then their second threads."""
        name, flag, family, number = _VENDORS[vendor]
        flags = f"{_X86_FLAGS} {flag}"
        lines = [
            "processor\t: 0",
            f"vendor_id\t: {name}",
            f"cpu family\t: {family}",
            f"model\t\t: {number}",
            f"model name\t: {model}",
        ]
        lines += ["stepping\t: 8", "microcode\t: 0x2b000603", f"flags\t\t: {flags}"]
        self.text("proc/cpuinfo", "\n".join([*lines, f"address sizes\t: {bits} bits physical, 57 bits virtual", ""]))
        self.text("proc/sys/kernel/arch", "x86_64")
        self._topology(sockets, cores, threads)
        self.text("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
        module, paging, interrupts = {"vmx": ("kvm_intel", "ept", "enable_apicv"), "svm": ("kvm_amd", "npt", "avic")}[
            flag
        ]
        for parameter in (paging, interrupts):
            self.text(f"sys/module/{module}/parameters/{parameter}", "Y")
        self.text(f"sys/module/{module}/parameters/nested", "Y" if vendor == "intel" else "1")

    def arm64(self, implementer: int, part: int, sockets: int, cores: int) -> None:
        """Add arm64 processors."""
        lines = ["processor\t: 0", "BogoMIPS\t: 2000.00", "Features\t: fp asimd aes sve2 bf16"]
        lines += [f"CPU implementer\t: {implementer:#04x}", "CPU architecture: 8", f"CPU part\t: {part:#05x}", ""]
        self.text("proc/cpuinfo", "\n".join(lines))
        self.text("proc/sys/kernel/arch", "aarch64")
        self._topology(sockets, cores, 1)
        self.text("sys/devices/system/clocksource/clocksource0/current_clocksource", "arch_sys_counter")
        self.directory("sys/module/kvm")

    def _topology(self, sockets: int, cores: int, threads: int) -> None:
        total = sockets * cores
        self.cpus = total * threads
        base = "sys/devices/system/cpu"
        for name in ("online", "present"):
            self.text(f"{base}/{name}", f"0-{self.cpus - 1}" if self.cpus > 1 else "0")
        self.text(f"{base}/isolated", "")
        self.text(f"{base}/smt/control", "on" if threads > 1 else "notsupported")
        for cpu in range(self.cpus):
            core = cpu % total
            siblings = ",".join(str(core + total * thread) for thread in range(threads))
            self.text(f"{base}/cpu{cpu}/topology/thread_siblings_list", siblings)
            self.text(f"{base}/cpu{cpu}/topology/physical_package_id", core // cores)
        for name in ("spectre_v2", "mds", "l1tf"):
            self.text(
                f"{base}/vulnerabilities/{name}",
                "Not affected" if name != "spectre_v2" else "Mitigation: Enhanced IBRS",
            )
        self.text(f"{base}/cpufreq/policy0/scaling_governor", "performance")

    def memory(self, total_gib: int, page_kib: int = 2048) -> None:
        """Set the host's memory."""
        kib = total_gib << 20
        lines = [
            f"MemTotal:       {kib} kB",
            f"MemFree:        {kib * 9 // 10} kB",
            f"MemAvailable:   {kib * 9 // 10} kB",
        ]
        lines += ["SwapTotal:      0 kB", "SwapFree:       0 kB", f"Hugepagesize:       {page_kib} kB"]
        self.text("proc/meminfo", "\n".join(lines))
        self.text("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.text("proc/sys/vm/overcommit_memory", 0)
        self.text("proc/sys/vm/swappiness", 60)
        self.text("proc/sys/kernel/numa_balancing", 0)

    def hugepages(self, size_kib: int, by_node: dict[int, tuple[int, int]]) -> None:
        """Add a pool of huge pages: (total, free) of each node."""
        total, free = (sum(each[index] for each in by_node.values()) for index in (0, 1))
        for base, counts in [
            ("sys/kernel/mm/hugepages", (total, free)),
            *((f"sys/devices/system/node/node{node}/hugepages", each) for node, each in by_node.items()),
        ]:
            pool = f"{base}/hugepages-{size_kib}kB"
            values = {"nr": counts[0], "free": counts[1], "surplus": 0}
            for name, value in (values if "node/node" in base else {**values, "resv": 0}).items():
                self.text(f"{pool}/{name}_hugepages", value)

    def node(self, number: int, cpus: str, gib: int, distances: str) -> None:
        """Add a NUMA node."""
        base = f"sys/devices/system/node/node{number}"
        self.text(f"{base}/cpulist", cpus)
        self.text(f"{base}/distance", distances)
        rows = [
            f"Node {number} MemTotal:       {gib << 20} kB",
            f"Node {number} MemFree:        {(gib << 20) * 9 // 10} kB",
        ]
        self.text(f"{base}/meminfo", "\n".join(rows))

    # Everything else.

    def process(self, pid: int, command: str, files: tuple[str, ...], unit: str | None = None) -> None:
        """Add a process with open files."""
        self.text(f"proc/{pid}/comm", command)
        self.text(
            f"proc/{pid}/cgroup", f"0::/system.slice/{unit}" if unit else "0::/user.slice/user-0.slice/session-1.scope"
        )
        for index, path in enumerate(files):
            self.tree[f"proc/{pid}/fd/{index}"] = {"link": path}

    def nvidia_gpu(self, bdf: str, minor: int, model: str) -> None:
        """Say which /dev/nvidiaN a GPU on NVIDIA's driver is."""
        rows = [f"Model: \t\t {model}", f"Bus Location: \t {bdf}", f"Device Minor: \t {minor}"]
        self.text(f"proc/driver/nvidia/gpus/{bdf}/information", "\n".join(rows))
        self.device_node(f"dev/nvidia{minor}", 0o666, 0, 0)

    def device_node(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Add a node below /dev."""
        self.present(path)
        self._captured["nodes"][path] = {"mode": mode, "uid": uid, "gid": gid}

    def note(self, name: str, value: object) -> None:
        """Set what only `.captured.json` can say, for example ``kvm``."""
        self._captured[name] = value

    def iomem(self, windows: tuple[str, ...], claims: dict[str, tuple[str, str]] | None = None) -> None:
        """Write /proc/iomem: the root buses' windows, all BARs in it, and names inside a BAR (by BDF: name, range)."""
        lines = list(windows)
        for row in self._iomem:
            lines.append(row)
            bdf = row.rpartition(" ")[2]
            if claims and bdf in claims:
                name, span = claims.pop(bdf)
                lines.append(f"    {span} : {name}")
        self.text("proc/iomem", "\n".join(lines))
