"""The bytecode that test hosts keep of modules inside zip files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[3] / "molecule/shared/rootfs/usr/lib/python3/dist-packages"
RUN = """
import bed_bytecode, sys
bed_bytecode.DIRECTORY = sys.argv[1]
sys.path.insert(0, sys.argv[2])
import inside
print(inside.word)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file with one module."""
    return write(tmp_path / "modules.zip", "word = 'one'\n")


def write(path: Path, source: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inside.py", source)
    return path


def imported(directory: Path, archive: Path) -> str:
    """What the module says in a Python of its own."""
    command = [sys.executable, "-c", RUN, str(directory), str(archive)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(PACKAGES)})
    return done.stdout.strip()


def test_a_module_is_compiled_once(tmp_path: Path, archive: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert imported(kept, archive) == "one"
    (file,) = kept.iterdir()
    before = file.stat().st_mtime_ns
    assert imported(kept, archive) == "one"
    assert [each.stat().st_mtime_ns for each in kept.iterdir()] == [before]


def test_another_source_is_another_module(tmp_path: Path, archive: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    imported(kept, archive)
    assert imported(kept, write(archive, "word = 'two'\n")) == "two"


def test_what_cannot_be_kept_or_read_is_compiled(tmp_path: Path, archive: Path) -> None:
    assert imported(tmp_path / "nowhere", archive) == "one"
    kept = tmp_path / "kept"
    kept.mkdir()
    imported(kept, archive)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:5])
    assert imported(kept, archive) == "one"
