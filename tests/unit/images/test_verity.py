"""The dm-verity hash tree that an image can carry: what veritysetup makes of it, and what our script asks it for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "image-elements/vllmd-debian/lib/vllmd-make-verity"
BLOCK_BYTES = 4096


def root_hash(data: bytes) -> str:
    """The tree's root as the kernel defines it (admin-guide/device-mapper/verity.rst): no salt, SHA-256."""
    level = [hashlib.sha256(data[i : i + BLOCK_BYTES]).digest() for i in range(0, len(data), BLOCK_BYTES)]
    while len(level) > 1:
        joined = b"".join(level)
        blocks = [joined[i : i + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0") for i in range(0, len(joined), BLOCK_BYTES)]
        level = [hashlib.sha256(block).digest() for block in blocks]
    return level[0].hex()


def make(directory: Path, data: bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    (directory / "image").write_bytes(data)
    (directory / "facts.json").write_text(json.dumps({"cmdline": "root=/dev/vda ro", "kept": [1]}))
    return subprocess.run(
        ["bash", SCRIPT, directory / "image", directory / "facts.json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("blocks", [2, 128, 129, 20000])
def test_the_root_hash_is_the_kernels(tmp_path: Path, blocks: int) -> None:
    data = b"".join(number.to_bytes(4, "big") * (BLOCK_BYTES // 4) for number in range(blocks))
    done = make(tmp_path, data)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts == {"cmdline": f"root=/dev/vda ro vllmd.verity={blocks}:{root_hash(data)}", "kept": [1]}
    image = (tmp_path / "image").read_bytes()
    assert image.startswith(data)
    assert len(image) > len(data)
    assert len(image) % BLOCK_BYTES == 0


def test_half_a_block_is_refused(tmp_path: Path) -> None:
    done = make(tmp_path, b"x" * (BLOCK_BYTES + 1))
    assert done.returncode == 1
    assert "4097 bytes, no multiple of 4096" in done.stderr
    assert json.loads((tmp_path / "facts.json").read_text())["cmdline"] == "root=/dev/vda ro"


def test_a_builder_without_veritysetup_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").symlink_to("/bin/bash")
    done = make(tmp_path, b"x" * BLOCK_BYTES, PATH=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install the package cryptsetup-bin" in done.stderr
