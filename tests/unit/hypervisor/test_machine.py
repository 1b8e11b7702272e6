"""From a Config and a host to a Machine: the choices made, and everything that cannot work."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.boot_files import firmware, qcow2, write
from tests.support.sysfs import FakeHost
from vllmd_hypervisor import host
from vllmd_hypervisor.config import parse_config
from vllmd_hypervisor.errors import ConfigError
from vllmd_hypervisor.kernel import BZIMAGE
from vllmd_hypervisor.kvm import kvm_trouble
from vllmd_hypervisor.machine import Machine, resolve_machine
from vllmd_hypervisor.memory import parse_memory
from vllmd_hypervisor.quantity import GIB

P = "VLLMD_HYPERVISOR_"


class Resolver:
    """Resolves environments on the fake host, with KVM working or not."""

    def __init__(self, environment: dict[str, str], fake_host: FakeHost, programs: Path) -> None:
        self.environment = environment | {"PATH": str(programs)}
        self.host = fake_host
        self.programs = programs
        self.trouble = ""
        programs.mkdir()
        self.install("qemu-system-x86_64")

    def install(self, name: str) -> Path:
        program = write(self.programs / name, b"#!/bin/sh\n")
        program.chmod(0o755)
        return program

    def __call__(self, **variables: str) -> Machine:
        environment = self.environment | {P + name: value for name, value in variables.items()}
        return resolve_machine(parse_config(environment, 0), environment, self.host.root, lambda _: self.trouble)

    def problems(self, **variables: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self(**variables)
        return caught.value.problems


@pytest.fixture
def resolve(environment: dict[str, str], fake_host: FakeHost, tmp_path: Path) -> Resolver:
    return Resolver(environment, fake_host, tmp_path / "programs")


def test_a_machine_knows_its_kinds(resolve: Resolver, tmp_path: Path) -> None:
    write(tmp_path / "system.raw", qcow2())
    machine = resolve()
    assert machine.kernel_kind == BZIMAGE
    assert [(disk.format, disk.readonly) for disk in machine.disks] == [("qcow2", False), ("raw", True)]


def test_a_cache_disk_has_to_be_writable(resolve: Resolver, tmp_path: Path) -> None:
    cache = write(tmp_path / "cache.raw", bytes(8192))
    assert [disk.path for disk in resolve(CACHE_IMAGE_FILEPATH=str(cache)).disks][2:] == [cache]
    with pytest.raises(ConfigError, match=r"CACHE_IMAGE_FILEPATH: cannot read and write .*/none: No such file"):
        resolve(CACHE_IMAGE_FILEPATH=str(tmp_path / "none"))


def test_auto_is_qemu_without_cloud_hypervisor(resolve: Resolver) -> None:
    machine = resolve()
    assert (machine.backend, machine.accelerator) == ("qemu", "kvm")


def test_auto_is_cloud_hypervisor_where_it_is_installed_and_kvm_works(resolve: Resolver) -> None:
    program = resolve.install("cloud-hypervisor")
    machine = resolve()
    assert (machine.backend, machine.accelerator, machine.vmm) == ("cloud-hypervisor", "kvm", program)


@pytest.mark.parametrize("variables", [{"ACCELERATION": "tcg"}, {"NETWORK": "mode=user"}])
def test_auto_is_qemu_where_cloud_hypervisor_could_not_do_it(resolve: Resolver, variables: dict[str, str]) -> None:
    resolve.install("cloud-hypervisor")
    assert resolve(**variables).backend == "qemu"


def test_without_kvm_auto_emulates_and_warns_why(resolve: Resolver) -> None:
    resolve.install("cloud-hypervisor")
    resolve.trouble = "the CPU shows neither vmx nor svm"
    machine = resolve()
    assert (machine.backend, machine.accelerator) == ("qemu", "tcg")
    assert machine.warnings[0].startswith("KVM cannot be used (the CPU shows neither vmx nor svm)")


def test_what_needs_kvm_is_refused_without_it(resolve: Resolver) -> None:
    resolve.install("cloud-hypervisor")
    resolve.trouble = "/dev/kvm cannot be opened"
    assert "KVM is asked for, but /dev/kvm cannot be opened" in resolve.problems(ACCELERATION="kvm")[0]
    assert "cloud-hypervisor needs KVM, and /dev/kvm cannot" in resolve.problems(BACKEND="cloud-hypervisor")[0]


def test_a_vmm_file_tells_the_backend_by_its_name(resolve: Resolver) -> None:
    program = resolve.install("cloud-hypervisor-static")
    assert resolve(VMM_FILEPATH=str(program)).backend == "cloud-hypervisor"
    other = resolve.install("vmm")
    assert "set VLLMD_HYPERVISOR_BACKEND too" in resolve.problems(VMM_FILEPATH=str(other))[0]
    assert resolve(VMM_FILEPATH=str(other), BACKEND="qemu").vmm == other


def test_a_missing_vmm_is_named(resolve: Resolver, tmp_path: Path) -> None:
    assert "cloud-hypervisor is not on PATH; install it" in resolve.problems(BACKEND="cloud-hypervisor")[0]
    assert "is not an executable file" in resolve.problems(VMM_FILEPATH=str(tmp_path / "qemu"))[0]


def test_more_cpus_than_the_host_has_is_a_warning(resolve: Resolver) -> None:
    (warning,) = resolve(CPU_COUNT="1024").warnings
    assert warning.startswith(f"{P}CPU_COUNT=1024: this host has {os.cpu_count()};")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("KERNEL_FILEPATH", "/nowhere"), ("SYSTEM_IMAGE_FILEPATH", "/"), ("CONFIG_IMAGE_FILEPATH", "/dev")],
)
def test_missing_and_unfit_files_are_named(resolve: Resolver, variable: str, value: str) -> None:
    (problem,) = resolve.problems(**{variable: value})
    assert problem.startswith(f"{P}{variable}: ")


def test_initrd_must_be_there_and_hold_something(resolve: Resolver, tmp_path: Path) -> None:
    assert "INITRD_FILEPATH: cannot read" in resolve.problems(INITRD_FILEPATH="/nowhere")[0]
    assert "is empty" in resolve.problems(INITRD_FILEPATH=str(write(tmp_path / "initrd", b"")))[0]


def test_firmware_takes_no_kernel_arguments(resolve: Resolver, tmp_path: Path) -> None:
    write(tmp_path / "vmlinuz", firmware())
    assert "CMDLINE goes with a kernel" in resolve.problems(CMDLINE="quiet")[0]


def test_memory_beyond_the_host_is_refused(resolve: Resolver) -> None:
    (problem,) = resolve.problems(MEMORY_CONFIG="size=65G")
    assert problem == f"{P}MEMORY_CONFIG: size=65G is more than this host's memory (64.0 GiB)"


def test_what_qemu_cannot_do_is_refused_for_qemu_only(resolve: Resolver) -> None:
    assert "no memory hotplug" in resolve.problems(MEMORY_CONFIG="size=1G,hotplug_size=1G")[0]
    resolve.install("cloud-hypervisor")
    assert resolve(MEMORY_CONFIG="size=1G,hotplug_size=1G").backend == "cloud-hypervisor"


def test_a_device_that_is_not_free_is_refused(resolve: Resolver) -> None:
    resolve.host.device("0000:01:00.0", 5, "nouveau")
    (problem,) = resolve.problems(DEVICE_FILEPATH_LIST="/dev/vfio/5")
    assert problem.startswith(f"{P}DEVICE_FILEPATH_LIST: device /dev/vfio/5: 0000:01:00.0 in IOMMU group 5 is bound to")


def test_all_faults_come_at_once(resolve: Resolver) -> None:
    found = resolve.problems(KERNEL_FILEPATH="/nowhere", MEMORY_CONFIG="size=99T", DEVICE_FILEPATH_LIST="/dev/vfio/1")
    assert len(found) == 3


def test_a_taken_port_is_refused(resolve: Resolver) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (problem,) = resolve.problems(NETWORK=f"mode=user,forward=127.0.0.1:{port}:80")
    assert f"cannot forward 127.0.0.1:{port}: another program listens there" in problem


def test_huge_pages_are_counted(fake_host: FakeHost) -> None:
    fake_host.hugepages(2048, 100)
    fake_host.hugepages(1048576, 2)
    assert host.memory_problems(parse_memory("size=200M,hugepages=on"), fake_host.root) == []
    assert host.memory_problems(parse_memory("size=2G,hugepages=on,hugepage_size=1G"), fake_host.root) == []
    (few,) = host.memory_problems(parse_memory("size=1G,hugepages=on"), fake_host.root)
    assert "needs 512 huge pages of 2M, 100 are free; raise" in few
    (size,) = host.memory_problems(parse_memory("size=1G,hugepages=on,hugepage_size=16M"), fake_host.root)
    assert "hugepage_size=16M is not a size this host has (2M, 1G)" in size
    (odd,) = host.memory_problems(parse_memory("size=255M,hugepages=on"), fake_host.root)
    assert "is not a multiple of the huge page size 2M" in odd


def test_passthrough_needs_lockable_memory(fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = parse_memory("size=32G")
    monkeypatch.setattr(host, "getrlimit", lambda _: (8 * 1024 * 1024, 8 * 1024 * 1024))
    assert host.pinning_problem(memory, fake_host.root) == ""  # CAP_IPC_LOCK lifts the limit
    (fake_host.root / "proc/self/status").write_text("CapEff:\t0000000000000000\n")
    assert "set LimitMEMLOCK=infinity" in host.pinning_problem(memory, fake_host.root)
    monkeypatch.setattr(host, "getrlimit", lambda _: (64 * GIB, 64 * GIB))
    assert host.pinning_problem(memory, fake_host.root) == ""


def test_kvm_needs_its_device_and_a_cpu_that_can(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags\t\t: fpu vme de\n")
    assert kvm_trouble(tmp_path).endswith("dev/kvm cannot be opened: No such file or directory")
    (tmp_path / "dev/kvm").touch()
    assert kvm_trouble(tmp_path).endswith("exists, but the CPU shows neither vmx nor svm in /proc/cpuinfo")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags\t\t: fpu svm\n")
    assert "refuses to create a virtual machine: Inappropriate ioctl" in kvm_trouble(tmp_path)


def test_programs_are_found_like_a_shell_finds_them(tmp_path: Path) -> None:
    (tmp_path / "first/vmm").mkdir(parents=True)
    (tmp_path / "second").mkdir()
    program = write(tmp_path / "second/vmm", b"")
    path = f"{tmp_path}/first:{tmp_path}/second"
    assert host.find_program("vmm", path) is None
    program.chmod(0o755)
    assert host.find_program("vmm", path) == program
