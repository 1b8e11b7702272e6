"""The CDI specification of a machine with two GPUs, as the driver describes them under /proc."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ELEMENTS

SCRIPT = ELEMENTS / "vllmd-nvidia/static/usr/lib/vllmd/cdi.py"
INFORMATION = """\
Model: \t\t NVIDIA H100 PCIe
IRQ:   \t\t 199
GPU UUID: \t GPU-{uuid}
Video BIOS: \t 96.00.30.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t {address}
Device Minor: \t {minor}
GPU Firmware: \t 550.163.01
GPU Excluded:\t No
"""
UUIDS = ("5c4b5d9e-0c3f-4a6a-9c59-1f6f0f0f0001", "5c4b5d9e-0c3f-4a6a-9c59-1f6f0f0f0002")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two GPUs, the second first on the bus; Debian's places of the libraries."""
    root = tmp_path / "root"
    for address, minor in (("0000:06:00.0", 1), ("0000:07:00.0", 0)):
        gpu = root / "proc/driver/nvidia/gpus" / address
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(INFORMATION.format(uuid=UUIDS[minor], address=address, minor=minor))
    (root / "dev").mkdir()
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
        (root / "dev" / node).touch()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    current = libraries / "nvidia/current"
    current.mkdir(parents=True)
    (current / "libcuda.so.550.163.01").touch()
    (current / "libcuda.so.1").symlink_to("libcuda.so.550.163.01")
    (libraries / "libcuda.so.1").symlink_to("nvidia/current/libcuda.so.1")
    (root / "usr/bin").mkdir()
    (root / "usr/bin/nvidia-smi").touch()
    return root


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-ISB", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_gpu_by_number_by_uuid_and_all(machine: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "cdi/nvidia.json", machine)
    assert (done.returncode, done.stderr) == (0, "")
    specification = json.loads((tmp_path / "cdi/nvidia.json").read_text())
    assert specification["cdiVersion"] == "0.5.0"
    assert specification["kind"] == "nvidia.com/gpu"
    nodes = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for device in specification["devices"]
    }
    assert nodes == {
        "0": ["/dev/nvidia0"],
        f"GPU-{UUIDS[0]}": ["/dev/nvidia0"],
        "1": ["/dev/nvidia1"],
        f"GPU-{UUIDS[1]}": ["/dev/nvidia1"],
        "all": ["/dev/nvidia0", "/dev/nvidia1"],
    }


def test_containers_get_the_shared_nodes_and_the_drivers_files(machine: Path, tmp_path: Path) -> None:
    run(tmp_path / "nvidia.json", machine)
    common = json.loads((tmp_path / "nvidia.json").read_text())["containerEdits"]
    assert [node["path"] for node in common["deviceNodes"]] == [
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
    ]
    mounts = {mount["containerPath"]: mount["hostPath"] for mount in common["mounts"]}
    assert mounts == {
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1": "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.550.163.01",
        "/usr/bin/nvidia-smi": "/usr/bin/nvidia-smi",
    }
    assert all("ro" in mount["options"] for mount in common["mounts"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("rm -r proc", "is the module nvidia loaded?"),
        ("rm -r proc/driver/nvidia/gpus/*", "the driver found no GPU"),
        ("rm dev/nvidia1", "/dev/nvidia1 is not there"),
        ("echo > proc/driver/nvidia/gpus/0000:06:00.0/information", "has no line 'Device Minor: NUMBER'"),
    ],
)
def test_what_is_missing_is_one_line_and_leaves_the_old_one(
    machine: Path, tmp_path: Path, spoil: str, said: str
) -> None:
    subprocess.run(["sh", "-c", spoil], cwd=machine, check=True)
    (tmp_path / "nvidia.json").write_text("old")
    done = run(tmp_path / "nvidia.json", machine)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "nvidia.json").read_text() == "old"


def test_usage() -> None:
    assert run().returncode == 2
