"""Machines as files, models as files, and the profiles as the image has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from vllmd_node import GIB, hardware, model, profiles

#: A busy machine takes its time to make up inputs and to try them.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
ELEMENT = Path(__file__).resolve().parents[3] / "image-elements/vllmd-runtime"


@pytest.fixture(scope="session")
def shipped() -> dict[str, dict[str, Any]]:
    """The profiles by name, checked."""
    files = sorted((ELEMENT / "profiles").glob("*.yaml"))
    return profiles.check_all({path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files})


def gpus(pci_id: str, count: int, memory: int = 64 * GIB) -> hardware.Hardware:
    """A machine with ``count`` GPUs of one kind."""
    found = tuple(hardware.Gpu(f"0000:{number:02x}:00.0", pci_id, 0, 0) for number in range(1, count + 1))
    return hardware.Hardware(found, 16, True, memory, memory - GIB)


def write_sysfs(root: Path, devices: list[tuple[str, str, str]], meminfo: str = "", cpuinfo: str = "") -> Path:
    """Write a guest's /sys and /proc; devices are (address, vendor:device, class)."""
    for address, pci_id, kind in devices:
        device = root / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        vendor, _, number = pci_id.partition(":")
        (device / "vendor").write_text(f"0x{vendor}\n")
        (device / "device").write_text(f"0x{number}\n")
        (device / "class").write_text(f"{kind}\n")
        (device / "numa_node").write_text("1\n")
        (device / "resource").write_text(
            "0x00000000f8000000 0x00000000f8ffffff 0x0000000000040200\n"
            "0x0000004000000000 0x00000047ffffffff 0x000000000014220c\n"
            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        )
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(meminfo or "MemTotal:       5000000 kB\nMemAvailable:   4700000 kB\n")
    (root / "proc/cpuinfo").write_text(cpuinfo or "processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\n")
    return root


@pytest.fixture
def model_directory(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model directory: its config, and tensors by file as {name: (dtype, bytes)}."""

    def make(config: dict[str, Any], files: dict[str, dict[str, tuple[str, int]]], index: bool = False) -> Path:
        directory = tmp_path / "model"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        for name, tensors in files.items():
            write_safetensors(directory / name, tensors)
        if index:
            weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return directory

    return make


def write_safetensors(path: Path, tensors: dict[str, tuple[str, int]]) -> None:
    """Write a safetensors file whose data is a hole of the right size."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)


def bf16(parameters: int, **shape: int) -> model.Model:
    """A model of ``parameters`` in bfloat16."""
    return model.Model(dtype="BF16", weights=(("BF16", 2 * parameters),), **shape)  # type: ignore[arg-type]
