"""The cache disk's file: made once and whole, and never in the place of something else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support import modules
from vllmd_node import storage


def disk(path: Path, size_mib: int = 64, check: bool = False) -> dict[str, Any]:
    return modules.run("cache_disk", {"path": str(path), "size_mib": size_mib}, path.parent, check)


def test_the_guest_takes_what_the_host_makes(tmp_path: Path) -> None:
    path = tmp_path / "cache.raw"
    assert disk(path, check=True)["changed"]
    assert not path.exists()
    made = disk(path)
    assert (made["changed"], made["size_mib"]) == (True, 64)
    assert storage.inspect(str(path)).state == storage.READY
    assert path.stat().st_size == 64 * 1024**2
    assert path.stat().st_blocks * 512 < 8 * 1024**2
    assert path.stat().st_mode & 0o777 == 0o660
    assert not disk(path)["changed"]
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_a_disk_that_is_there_keeps_its_size(tmp_path: Path) -> None:
    path = tmp_path / "cache.raw"
    disk(path)
    again = disk(path, 128)
    assert (again["changed"], again["size_mib"]) == (False, 64)
    assert "keeps its 64 MiB" in str(again["warnings"])


def test_what_is_no_cache_disk_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "cache.raw"
    path.write_bytes(b"precious")
    assert "is no file with an ext4 file system, not a cache disk" in disk(path)["msg"]
    assert path.read_bytes() == b"precious"
    with path.open("wb") as stream:
        stream.truncate(2**22)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "DATA", str(path)], check=True)
    assert "has the label 'DATA', not a cache disk labelled VLLMD_CACHE" in disk(path)["msg"]


def test_refusals(tmp_path: Path) -> None:
    assert "size_mib is 1; a cache disk has at least 64" in disk(tmp_path / "cache.raw", 1)["msg"]
    missing = modules.run("cache_disk", {"path": str(tmp_path / "no/cache.raw"), "size_mib": 64}, tmp_path)
    assert "no is no directory; make it first" in missing["msg"]
