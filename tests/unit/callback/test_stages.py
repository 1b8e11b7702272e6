"""The sign of life of a long task tells what this task does, not what another one logs beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.callback.stages import newest_line

RUNS, BUILDS = "vllmd.platform.hypervisor", "runtime_assembler"


@pytest.mark.parametrize(
    ("role", "line"), [(RUNS, "guest says"), (BUILDS, "build says"), ("", "build says"), ("vfio", "build says")]
)
def test_a_role_shows_its_own_log(tmp_path: Path, role: str, line: str) -> None:
    for number, (name, text) in enumerate({"smollm2": "guest says", "image-vllmd-cpu": "build says"}.items()):
        log = tmp_path / f"{name}.log"
        log.write_text(f"before\n\x1b{text}\r\n")
        os.utime(log, (1000 + number, 1000 + number))
    assert newest_line(tmp_path, 900, role).strip() == line
    assert newest_line(tmp_path, 2000, role) == ""


def test_without_logs_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert newest_line(tmp_path / "nowhere", 0, RUNS) == ""
