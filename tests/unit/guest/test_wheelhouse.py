"""The downloader of wheels, with a pip that plays its parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/runtime_assembler/files/wheelhouse"
LOCK = "a==1 \\\n    --hash=sha256:00\nb==2 \\\n    --hash=sha256:11\n"

PIP = """
import pathlib, sys
target = pathlib.Path(next(a.partition("=")[2] for a in sys.argv if a.startswith("--dest=")))
assert any(a == "--platform=manylinux_2_36_x86_64" for a in sys.argv)
{body}
"""
DOWNLOADS = """
for name in ("a", "b"):
    print(f"Collecting {name}==1", flush=True)
    (target / f"{name}.whl").write_bytes(b"wheel")
"""
NO_INDEX = """
print("WARNING: Retrying (Retry(total=0)) after connection broken")
print("ERROR: Could not find a version that satisfies the requirement a==1")
sys.exit(1)
"""


def run(tmp_path: Path, body: str, lock: str = LOCK) -> subprocess.CompletedProcess[str]:
    """Run the script with a pip of the given ``body``."""
    (tmp_path / "pip.py").write_text(PIP.format(body=body))
    (tmp_path / "lock.txt").write_text(lock)
    command = [sys.executable, str(SCRIPT), "--cache", str(tmp_path / "cache")]
    command += ["--pip", f"{sys.executable} {tmp_path}/pip.py", str(tmp_path / "lock.txt")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_wheels_are_downloaded_once(tmp_path: Path) -> None:
    first = run(tmp_path, DOWNLOADS)
    assert first.returncode == 0, first.stderr
    directory = Path(first.stdout.strip())
    assert sorted(path.name for path in directory.iterdir()) == ["a.whl", "b.whl"]
    assert "wheelhouse: 2 of 2: b==1" in first.stderr
    second = run(tmp_path, "sys.exit('must not be called')")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "is there" in second.stderr


def test_a_dead_index_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, NO_INDEX)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("wheelhouse: pip download failed: the package index does not answer (Could not find")
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    name = Path(run(tmp_path, NO_INDEX).stderr and next((tmp_path / "cache").glob(".*.lock"))).name
    stale = tmp_path / "cache" / name.replace(".lock", ".partial")
    stale.mkdir()
    (stale / "half.whl").write_bytes(b"")
    result = run(tmp_path, DOWNLOADS)
    assert result.returncode == 0, result.stderr
    assert not stale.exists()
    assert not (Path(result.stdout.strip()) / "half.whl").exists()


@pytest.mark.parametrize("lock", ["", "a==1\n", "# a==1 --hash=sha256:00\n"])
def test_a_lock_that_pins_nothing_is_refused(tmp_path: Path, lock: str) -> None:
    result = run(tmp_path, DOWNLOADS, lock)
    assert result.returncode == 1
    assert "pins nothing by hash" in result.stderr


def test_a_missing_lock_or_pip_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--cache", str(tmp_path), "--pip", "no-such-pip"]
    missing = subprocess.run([*command, str(tmp_path / "none.txt")], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "cannot read the lock file" in missing.stderr
    (tmp_path / "lock.txt").write_text(LOCK)
    no_pip = subprocess.run([*command, str(tmp_path / "lock.txt")], capture_output=True, text=True, check=False)
    assert (no_pip.returncode, no_pip.stderr.count("\n")) == (1, 1)
    assert "cannot run no-such-pip" in no_pip.stderr
