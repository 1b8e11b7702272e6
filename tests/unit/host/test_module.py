"""The module as Ansible runs it, and the capturer on this very host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.codec import as_dict, from_dict
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from tests.support import modules, trees
from tests.support.host_schema import PATH

#: What changes between two readings of one host, and what a capture leaves out.
_VOLATILE = {
    *("memory.available_bytes", "memory.swap_free_bytes", "processes", "pci", "storage", "numa", "time", "troubles"),
    *("network", "limits", "memory.hugepages", "kvm.trouble", "system.virtualization"),
}


def test_this_host(tmp_path: Path) -> None:
    result = modules.run("host_facts", {}, tmp_path)
    assert result["changed"] is False
    jsonschema.validate(result["host"], json.loads(PATH.read_text()))
    assert from_dict(result["host"]).cpu.online


def test_a_captured_host_in_check_mode(
    tmp_path: Path, machine_root: Callable[[str], Path], machine: Callable[[str], Host]
) -> None:
    result = modules.run("host_facts", {"root": str(machine_root("desktop"))}, tmp_path, check=True)
    assert from_dict(result["host"]) == machine("desktop")


def test_only_some_parts(tmp_path: Path) -> None:
    result = modules.run("host_facts", {"parts": ["memory", "numa"]}, tmp_path)
    assert sorted(result["host"]) == ["memory", "numa"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parts": ["gpu"]}, "parts: 'gpu' is not a part of a host; known are schema_version, system, cpu"),
        ({"root": "/nowhere"}, "root: /nowhere is not a directory"),
    ],
)
def test_refused(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    result = modules.run("host_facts", arguments, tmp_path)
    assert result["failed"]
    assert words in result["msg"]


def test_a_capture_reads_like_the_host(tmp_path: Path) -> None:
    out = tmp_path / "this.tree.json"
    program = [sys.executable, str(Path(trees.__file__)), "capture", str(out)]
    subprocess.run(program, check=True, capture_output=True, timeout=60)
    captured = read_host(str(trees.materialise(trees.load(out), tmp_path / "root")))
    assert _steady(as_dict(captured)) == _steady(as_dict(read_host()))
    for bdf, device in read_host().pci.devices.items():
        again = captured.pci.devices[bdf]
        assert (again.class_code, again.driver, again.bars) == (device.class_code, device.driver, device.bars)
        assert (again.path, again.iommu_group) == (device.path, device.iommu_group)


def test_a_capture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(trees.__file__)), "capture", str(tmp_path)]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _steady(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        key: _steady(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in data.items()
        if f"{prefix}{key}" not in _VOLATILE
    }
