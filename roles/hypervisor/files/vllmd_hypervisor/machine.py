"""From a Config and this host to the Machine that a VMM is asked to run; what cannot work is refused, all at once."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllmd_hypervisor import host
from vllmd_hypervisor.config import PREFIX, Config
from vllmd_hypervisor.devices import Endpoint, expand_devices
from vllmd_hypervisor.errors import ConfigError, ValueProblem, reason
from vllmd_hypervisor.image import Image, inspect_image
from vllmd_hypervisor.kernel import FIRMWARE, check_kernel
from vllmd_hypervisor.kvm import kvm_trouble
from vllmd_hypervisor.memory import qemu_problems
from vllmd_hypervisor.quantity import format_size

CLOUD_HYPERVISOR = "cloud-hypervisor"
QEMU = "qemu"
# By their place in Machine.disks; the guest reads them as its disks' serial numbers.
DISK_NAMES = ("system", "config", "cache")
PROGRAMS = {CLOUD_HYPERVISOR: "cloud-hypervisor", QEMU: "qemu-system-x86_64"}


@dataclass(frozen=True)
class Machine:
    """What the VMM runs. `disks` are in the guest's order: system (vda), config (vdb), cache (vdc) if there is one."""

    config: Config
    backend: str
    vmm: Path
    accelerator: str
    kernel_kind: str
    disks: tuple[Image, ...]
    endpoints: tuple[Endpoint, ...]
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for people: `qemu (tcg), 2 vCPUs, 6G memory, 0 devices`."""
        config = self.config
        parts = [f"{config.cpu_count} vCPUs", f"{format_size(config.memory.size)} memory"]
        return ", ".join([f"{self.backend} ({self.accelerator})", *parts, f"{len(self.endpoints)} devices"])


def resolve_machine(
    config: Config,
    environ: Mapping[str, str],
    root: Path = Path("/"),
    trouble: Callable[[Path], str] = kvm_trouble,
) -> Machine:
    """Check the Config against this host and choose backend and accelerator; ConfigError lists every fault."""
    problems: list[str] = []
    warnings: list[str] = []
    kernel_kind = _check_payload(config, problems)
    disks = _check_disks(config, problems)
    no_kvm = trouble(root)
    backend, vmm = _choose_backend(config, environ, no_kvm, problems)
    accelerator = _choose_accelerator(config, backend, no_kvm, problems, warnings)
    if backend == QEMU:
        problems += [f"{PREFIX}MEMORY_CONFIG: {problem}" for problem in qemu_problems(config.memory)]
    elif config.network.mode == "user":
        problems.append(f"{PREFIX}NETWORK: cloud-hypervisor has no user-mode network; use mode=tap")
    problems += [f"{PREFIX}MEMORY_CONFIG: {problem}" for problem in host.memory_problems(config.memory, root)]
    problems += [f"{PREFIX}NETWORK: {problem}" for problem in host.forward_problems(config.network)]
    endpoints = _check_devices(config, root, problems)
    cpus = os.cpu_count() or 1
    if config.cpu_count > cpus:
        warnings.append(f"{PREFIX}CPU_COUNT={config.cpu_count}: this host has {cpus}; the guest's CPUs will share them")
    if problems:
        raise ConfigError(problems)
    return Machine(config, backend, vmm, accelerator, kernel_kind, disks, endpoints, tuple(warnings))


def _check_payload(config: Config, problems: list[str]) -> str:
    kind = ""
    try:
        kind = check_kernel(f"{PREFIX}KERNEL_FILEPATH", config.kernel)
    except ValueProblem as problem:
        problems.append(str(problem))
    if kind == FIRMWARE:
        for variable, value in (("INITRD_FILEPATH", config.initrd), ("CMDLINE", config.cmdline)):
            if value:
                problems.append(f"{PREFIX}{variable} goes with a kernel, but {config.kernel} is firmware; take it away")
    if config.initrd:
        try:
            with config.initrd.open("rb") as file:
                if not file.read(1):
                    problems.append(f"{PREFIX}INITRD_FILEPATH: {config.initrd} is empty")
        except OSError as error:
            problems.append(f"{PREFIX}INITRD_FILEPATH: cannot read {config.initrd}: {reason(error)}")
    return kind


def _check_disks(config: Config, problems: list[str]) -> tuple[Image, ...]:
    disks = []
    for variable, path, readonly in (
        ("SYSTEM_IMAGE_FILEPATH", config.system_image, config.system_image_readonly),
        ("CONFIG_IMAGE_FILEPATH", config.config_image, True),
        ("CACHE_IMAGE_FILEPATH", config.cache_image, False),
    ):
        if path is None:
            continue
        try:
            disks.append(inspect_image(path, readonly=readonly))
        except OSError as error:
            access = "read" if readonly else "read and write"
            problems.append(f"{PREFIX}{variable}: cannot {access} {path}: {reason(error)}")
        except ValueProblem as problem:
            problems.append(f"{PREFIX}{variable}: {path} {problem}")
    return tuple(disks)


def _choose_backend(config: Config, environ: Mapping[str, str], no_kvm: str, problems: list[str]) -> tuple[str, Path]:
    """Return the backend and its program; `auto` is cloud-hypervisor when installed and KVM works, else qemu."""
    path = environ.get("PATH") or os.defpath
    backend = config.backend
    if backend == "auto" and config.vmm_filepath:
        names = [name for name in PROGRAMS if name in config.vmm_filepath.name]
        if not names:
            problems.append(f"{PREFIX}VMM_FILEPATH: {config.vmm_filepath} has no VMM's name; set {PREFIX}BACKEND too")
            return QEMU, config.vmm_filepath
        backend = names[0]
    elif backend == "auto":
        tcg_wanted = config.acceleration == "tcg" or config.network.mode == "user"
        usable = not no_kvm and not tcg_wanted and host.find_program(PROGRAMS[CLOUD_HYPERVISOR], path)
        backend = CLOUD_HYPERVISOR if usable else QEMU
    vmm = config.vmm_filepath or host.find_program(PROGRAMS[backend], path)
    if vmm is None:
        problems.append(f"{PROGRAMS[backend]} is not on PATH; install it or set {PREFIX}VMM_FILEPATH")
        return backend, Path(PROGRAMS[backend])
    if not vmm.is_file() or not os.access(vmm, os.X_OK):
        problems.append(f"{PREFIX}VMM_FILEPATH: {vmm} is not an executable file")
    return backend, vmm


def _choose_accelerator(config: Config, backend: str, no_kvm: str, problems: list[str], warnings: list[str]) -> str:
    if config.acceleration == "tcg" and backend == QEMU:
        return "tcg"
    if not no_kvm:
        return "kvm"
    if backend == CLOUD_HYPERVISOR:
        problems.append(f"{PREFIX}BACKEND: cloud-hypervisor needs KVM, and {no_kvm}; choose qemu to emulate")
    elif config.acceleration == "kvm":
        problems.append(f"{PREFIX}ACCELERATION: KVM is asked for, but {no_kvm}")
    else:
        warnings.append(f"KVM cannot be used ({no_kvm}); emulating the CPU, which is many times slower")
    return "tcg"


def _check_devices(config: Config, root: Path, problems: list[str]) -> tuple[Endpoint, ...]:
    endpoints, faults = expand_devices(config.devices, root)
    problems += [f"{PREFIX}DEVICE_FILEPATH_LIST: {fault}" for fault in faults]
    pinning = host.pinning_problem(config.memory, root) if endpoints else ""
    if pinning:
        problems.append(f"{PREFIX}DEVICE_FILEPATH_LIST: {pinning}")
    return tuple(endpoints)
