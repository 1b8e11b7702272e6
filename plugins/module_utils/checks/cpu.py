# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does the processor have what virtual machines need, and is all of it in use?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    GIB,
    accelerators,
    at_least,
    gib,
    join,
    ranges,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_MICROCODE = {"intel": "intel-microcode", "amd": "amd64-microcode"}
_SLOW_GOVERNORS = ("powersave", "conservative", "ondemand", "userspace")
_GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")


@check(
    "cpu-virtualization",
    "cpu",
    "The processor offers hardware virtualization",
    why="Without VT-x or AMD-V every guest instruction is emulated, about twenty times slower. Firmware often "
    "ships with it off.",
    reference="Intel SDM volume 3C, 24; AMD APM volume 2, 15",
)
def cpu_virtualization(host: Host, policy: Policy) -> Outcome:
    """Look for vmx or svm; on arm64 /dev/kvm alone can tell."""
    if host.system.architecture == "aarch64":
        return Outcome(SKIP, "arm64 has no CPU flag for it; check kvm-works decides")
    flag = host.cpu.virtualization_flag
    if flag is None:
        return unknown("/proc/cpuinfo")
    if flag:
        return Outcome(PASS, f"flag {flag}")
    status = FAIL if policy.kvm == "required" else WARN
    return Outcome(
        status,
        "neither vmx nor svm among the CPU flags",
        "enable Intel VT-x or AMD SVM in the firmware setup, then power the host off and on",
    )


@check(
    "cpu-paging",
    "cpu",
    "Nested paging (EPT or NPT) is on",
    why="Without it every page table write of a guest traps into the host.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, kvm-intel.ept, kvm-amd.npt",
)
def cpu_paging(host: Host, _policy: Policy) -> Outcome:
    """WARN when kvm runs without two-dimensional paging."""
    found = host.kvm.two_dimensional_paging
    if found is None:
        return unknown("the kvm module's parameter ept or npt")
    if found:
        return Outcome(PASS, "EPT or NPT in use")
    return Outcome(
        WARN,
        "the kvm module runs without EPT or NPT",
        "remove ept=0 or npt=0 from /etc/modprobe.d and reload the kvm module",
    )


@check(
    "cpu-count",
    "cpu",
    "There are enough CPUs",
    why="A guest's virtual CPUs, the host's own work and vLLM's tokenizer threads share them.",
    reference="policy key minimum_cpus",
)
def cpu_count(host: Host, policy: Policy) -> Outcome:
    """Compare online CPUs with minimum_cpus."""
    found = len(host.cpu.online) or None
    return at_least(
        found, policy.minimum_cpus, "logical CPUs online", "add CPUs, or lower minimum_cpus and the runtimes' cpu"
    )


@check(
    "cpu-online",
    "cpu",
    "No CPU is switched off",
    why="An offline CPU is capacity lost, and shifts which CPUs a NUMA node has. Threads that nosmt took are "
    "meant to be off.",
    reference="Linux: Documentation/core-api/cpu_hotplug.rst",
)
def cpu_online(host: Host, _policy: Policy) -> Outcome:
    """WARN for CPUs that are present and offline, unless SMT is off."""
    cpu = host.cpu
    if not cpu.present or not cpu.online:
        return unknown("/sys/devices/system/cpu/present or online")
    offline = set(cpu.present) - set(cpu.online)
    if not offline:
        return Outcome(PASS, f"{len(cpu.online)} of {len(cpu.present)} CPUs online")
    if cpu.smt in ("off", "forceoff"):
        return Outcome(INFO, f"CPUs {ranges(offline)} are offline because SMT is {cpu.smt}")
    return Outcome(
        WARN,
        f"CPUs {ranges(offline)} are offline",
        f"for n in {' '.join(map(str, sorted(offline)))}; do echo 1 > /sys/devices/system/cpu/cpu$n/online; done",
    )


@check(
    "cpu-housekeeping",
    "cpu",
    "CPU isolation leaves the host CPUs to work with",
    why="isolcpus takes CPUs from the scheduler: with too few left, interrupts and the virtual machine monitors' "
    "own threads starve.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, isolcpus",
)
def cpu_housekeeping(host: Host, _policy: Policy) -> Outcome:
    """WARN when fewer than two CPUs are left."""
    cpu = host.cpu
    if not cpu.online:
        return unknown("/sys/devices/system/cpu/online")
    if not cpu.isolated:
        return Outcome(PASS, "no CPU is isolated")
    left = set(cpu.online) - set(cpu.isolated)
    evidence = f"isolated {ranges(cpu.isolated)}, left to the host {ranges(left) or 'none'}"
    if len(left) >= 2:
        return Outcome(PASS, evidence)
    return Outcome(
        WARN, evidence, "take at least two CPUs of each socket out of isolcpus= on the kernel command line, then reboot"
    )


@check(
    "cpu-microcode",
    "cpu",
    "Microcode updates are installed",
    why="Several side channels between guests are closed by microcode only, and firmware updates come late.",
    reference="Linux: Documentation/arch/x86/microcode.rst",
)
def cpu_microcode(host: Host, _policy: Policy) -> Outcome:
    """WARN when the vendor's microcode package is missing on a real machine."""
    package = _MICROCODE.get(host.cpu.vendor or "")
    if host.cpu.vendor is None or host.packages.manager is None:
        return unknown("the CPU's vendor or the list of installed packages")
    if package is None:
        return Outcome(PASS, f"vendor {host.cpu.vendor} has no microcode package")
    if host.packages.manager != "dpkg":
        return Outcome(SKIP, f"only dpkg is asked, and this host uses {host.packages.manager}")
    revision = f", running revision {host.cpu.microcode}" if host.cpu.microcode else ""
    if package in host.packages.installed:
        return Outcome(PASS, f"{package} {host.packages.installed[package]}{revision}")
    if host.system.virtualization:
        return Outcome(INFO, f"{package} is not installed; in a virtual machine the host below loads microcode")
    return Outcome(WARN, f"{package} is not installed{revision}", f"apt-get install {package} && systemctl reboot")


@check(
    "cpu-governor",
    "cpu",
    "CPUs do not save power at the cost of latency",
    why="Token generation is many short bursts on few CPUs; a slow governor stays behind each of them.",
    reference="Linux: Documentation/admin-guide/pm/cpufreq.rst",
)
def cpu_governor(host: Host, _policy: Policy) -> Outcome:
    """WARN for governors that start slow."""
    if not host.cpu.governors:
        return Outcome(SKIP, "the kernel does not control the CPUs' frequency here")
    slow = [name for name in host.cpu.governors if name in _SLOW_GOVERNORS]
    if not slow:
        return Outcome(PASS, f"governor {join(host.cpu.governors)}")
    remedy = (
        "for f in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance > $f; done; at each "
        "boot: cpufrequtils or tuned"
    )
    return Outcome(WARN, f"governor {join(slow)}", remedy)


@check(
    "cpu-address-width",
    "cpu",
    "Memory and accelerator BARs fit the processor's physical addresses",
    why="A guest sees no more physical address bits than the processor has, and all BARs must lie beyond its memory.",
    reference="Linux: Documentation/virt/kvm/api.rst, guest physical address width; QEMU: phys-bits",
)
def cpu_address_width(host: Host, policy: Policy) -> Outcome:
    """Compare memory plus twice the BARs (alignment can double them) with the address space."""
    bits, memory = host.cpu.physical_address_bits, host.memory.total_bytes
    if bits is None or memory is None or not 0 < bits <= 64:
        return unknown("the physical address width or the size of memory")
    bars = sum(device.bars_bytes for device in accelerators(host, policy))
    evidence = f"{bits} bits address {2**bits // GIB} GiB; memory {gib(memory)}, accelerator BARs {gib(bars)}"
    if memory + 2 * bars <= 2**bits:
        return Outcome(PASS, evidence)
    return Outcome(
        FAIL, evidence, "give each guest fewer accelerators, or use a processor with wider physical addresses"
    )


@check(
    "clocksource",
    "cpu",
    "Time is read from the processor",
    why="A kernel that distrusts the TSC reads a slow timer for every time stamp, in guests too.",
    reference="Linux: Documentation/timers/timekeeping.rst",
)
def clocksource(host: Host, _policy: Policy) -> Outcome:
    """WARN for hpet, acpi_pm and the like."""
    found = host.time.clocksource
    if found is None:
        return unknown("the current clock source")
    if found in _GOOD_CLOCKS:
        return Outcome(PASS, found)
    return Outcome(
        WARN,
        f"{found} instead of {_GOOD_CLOCKS[0]}",
        "journalctl -k | grep -i -e tsc -e clocksource; update the firmware when it says the TSC is unstable",
    )
