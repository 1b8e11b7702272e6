"""What a machine says of itself in /sys and /proc."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import trees
from vllmd_node import hardware

from .conftest import calm, write_sysfs

HOSTS = Path(__file__).resolve().parents[1] / "data/hosts"
NUMA = "Node 0 MemTotal:        4096 kB\nNode 0 MemFree:         1024 kB\n"


def test_gpus_are_nvidias_display_controllers(tmp_path: Path) -> None:
    devices = [
        ("0000:01:00.0", "10de:2236", "0x030200"),
        ("0000:02:00.0", "10de:22a3", "0x068000"),  # an NVSwitch
        ("0000:00:01.0", "1234:1111", "0x030000"),  # an emulated screen
        ("0000:03:00.0", "10de:2330", "0x030200"),
    ]
    machine = hardware.detect(str(write_sysfs(tmp_path, devices)))
    assert [(gpu.address, gpu.pci_id) for gpu in machine.gpus] == [
        ("0000:01:00.0", "10de:2236"),
        ("0000:03:00.0", "10de:2330"),
    ]
    assert machine.gpus[0].numa_node == 1
    assert machine.gpus[0].bar_bytes == 32 * 2**30
    assert machine.summary == "2 CPUs, 4.8 GiB, 2 GPUs (10de:2236, 10de:2330)"


def test_memory_cpus_and_numa(tmp_path: Path) -> None:
    root = write_sysfs(tmp_path, [])
    node = root / "sys/devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "meminfo").write_text(NUMA)
    (node / "cpulist").write_text("0-2,8\n")
    (root / "sys/devices/system/cpu").mkdir(parents=True)
    (root / "sys/devices/system/cpu/online").write_text("0-2,8\n")
    machine = hardware.detect(str(root))
    assert (machine.cpus, machine.memory_bytes, machine.memory_available_bytes) == (4, 5000000 * 1024, 4700000 * 1024)
    assert machine.numa == (hardware.NumaNode(0, (0, 1, 2, 8), 4096 * 1024),)
    assert not machine.fast_bfloat16
    assert machine.driver == ""


def test_bfloat16_and_the_drivers_version(tmp_path: Path) -> None:
    root = write_sysfs(tmp_path, [], cpuinfo="processor\t: 0\nflags\t\t: fpu avx512_bf16 avx2\n")
    (root / "proc/driver/nvidia").mkdir(parents=True)
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build\nGCC version: 14\n"
    (root / "proc/driver/nvidia/version").write_text(version)
    machine = hardware.detect(str(root))
    assert machine.fast_bfloat16
    assert machine.driver == "550.163.01"


def test_captured_hosts(tmp_path: Path) -> None:
    for name, pci_id, count in (("hgx-h100", "10de:2330", 8), ("epyc-l40s", "10de:26b9", 2), ("desktop", "", 0)):
        root = trees.materialise(trees.load(HOSTS / f"{name}.tree.json"), tmp_path / name)
        machine = hardware.detect(str(root))
        gpus = [gpu for gpu in machine.gpus if gpu.pci_id == pci_id]
        assert len(gpus) == count, name
        assert machine.memory_bytes > 0
        assert machine.cpus > 1


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    machine = hardware.detect(str(tmp_path))
    assert machine == hardware.Hardware()
    assert machine.summary == "1 CPU, 0.0 GiB, no GPU"


@settings(calm, max_examples=200)
@given(text=st.text(alphabet=st.sampled_from("0x19afkB: \n,-Node MemTotalflags10de"), max_size=200))
def test_any_text_in_any_file_is_survived(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = write_sysfs(Path(name), [("0000:01:00.0", "10de:2236", "0x030200")], text, text)
        device = root / "sys/bus/pci/devices/0000:01:00.0"
        for file in ("resource", "numa_node", "device"):
            (device / file).write_text(text, encoding="utf-8")
        node = root / "sys/devices/system/node/node0"
        node.mkdir(parents=True)
        (node / "meminfo").write_text(text, encoding="utf-8")
        (node / "cpulist").write_text(text, encoding="utf-8")
        machine = hardware.detect(str(root))
        assert len(machine.gpus) == 1
        assert machine.gpus[0].bar_bytes >= 0
