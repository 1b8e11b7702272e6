"""Which disk is taken for the cache, and what becomes of one that is not fit for it. Real file systems, in files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllmd_node import storage

from .conftest import calm

MIB = 1024 * 1024
Disks = Callable[..., tuple[str, str]]


def ext4(path: Path, label: str, size: int = 4 * MIB) -> None:
    """Make a file system in a file."""
    with path.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", label, str(path)], check=True)


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Writes /sys/class/block and /dev of disks given as name -> (content or label, serial)."""

    def make(**wanted: tuple[bytes | str | None, str]) -> tuple[str, str]:
        devices, nodes = tmp_path / "devices", tmp_path / "nodes"
        nodes.mkdir()
        for name, (content, serial) in wanted.items():
            (devices / name).mkdir(parents=True)
            if serial:
                (devices / name / "serial").write_text(serial)
            if isinstance(content, str):
                ext4(nodes / name, content)
            elif content is not None:
                (nodes / name).write_bytes(content)
        return str(devices), str(nodes)

    return make


def test_the_label_decides(disks: Disks) -> None:
    found = storage.find(*disks(vda=("root", "system"), vdb=(b"iso", "config"), vdc=("VLLMD_CACHE", "cache")))
    assert found is not None
    assert (Path(found.path).name, found.state, found.has_errors) == ("vdc", storage.READY, False)


def test_a_labelled_disk_wins_over_one_that_the_launcher_calls_cache(disks: Disks) -> None:
    found = storage.find(*disks(vdc=(bytes(2 * MIB), "cache"), vdd=("VLLMD_CACHE", ""), loop0=("VLLMD_CACHE", "")))
    assert found is not None
    assert Path(found.path).name == "vdd"


@pytest.mark.parametrize(
    ("content", "state", "detail"),
    [
        (bytes(3 * MIB), storage.BLANK, "it is blank"),
        ("OTHER", storage.FOREIGN, "the label 'OTHER' instead of VLLMD_CACHE"),
        (b"LUKS\xba\xbe" + bytes(MIB), storage.FOREIGN, "something that is no ext4 file system"),
        (bytes(3 * MIB) + b"backup of a partition table", storage.FOREIGN, "something that is no ext4"),
        (b"", storage.BLANK, "blank"),
        (None, storage.FOREIGN, "cannot be read: No such file"),
    ],
)
def test_what_is_no_cache_is_said_to_be_none(
    disks: Disks, content: bytes | str | None, state: str, detail: str
) -> None:
    found = storage.find(*disks(vda=("root", "system"), vdc=(content, "cache")))
    assert found is not None
    assert found.state == state
    assert detail in found.detail


def test_other_disks_are_nobodys_business(disks: Disks) -> None:
    assert storage.find(*disks(vda=("root", "system"), vdb=(bytes(MIB), "config"), vdd=("DATA", ""))) is None


def test_errors_in_the_file_system_are_seen(disks: Disks) -> None:
    devices, nodes = disks(vdc=("VLLMD_CACHE", "cache"))
    subprocess.run(["debugfs", "-w", "-R", "ssv state 2", f"{nodes}/vdc"], check=True, capture_output=True)
    found = storage.find(devices, nodes)
    assert found is not None
    assert found.has_errors


@settings(calm, max_examples=100)
@given(content=st.binary(max_size=3000))
def test_any_disk_has_a_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    assert storage.inspect(str(path)).state in (storage.BLANK, storage.FOREIGN)


def test_no_disk_and_no_wish_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert storage.attach(None, {}, 990) == {}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("disk", "wishes", "expected"),
    [
        (None, {"required": False}, "no disk with the label VLLMD_CACHE is attached"),
        (storage.Disk("/dev/vdc", storage.BLANK, "it is blank"), {}, "set storage.cache.format to have it formatted"),
        (storage.Disk("/dev/vdc", storage.FOREIGN, "it holds x"), {"format": True}, "it holds x; attach another disk"),
    ],
)
def test_a_guest_runs_without_and_says_why(
    capsys: pytest.CaptureFixture[str], disk: storage.Disk | None, wishes: dict[str, bool], expected: str
) -> None:
    assert storage.attach(disk, wishes, 990) == {}
    assert expected in capsys.readouterr().out
    with pytest.raises(storage.CacheError, match=r"VLLMD_CACHE|vdc"):
        storage.attach(disk, {**wishes, "required": True}, 990)


def test_a_blank_disk_is_formatted_when_asked(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices, nodes = disks(vdc=(bytes(4 * MIB), "cache"))
    monkeypatch.setattr(storage, "_mount", lambda _disk, target: Path(target).mkdir())
    target = tmp_path / "mounted"
    monkeypatch.setattr(storage, "_SMALLEST_FREE", 0)
    warmed = tmp_path / "warmed/modelinfos"
    warmed.mkdir(parents=True)
    (warmed / "llama.json").write_text("{}")
    monkeypatch.setattr(storage, "WARMED", str(warmed.parent))
    environment = storage.attach(storage.find(devices, nodes), {"format": True}, os.getuid(), str(target))
    found = storage.find(devices, nodes)
    assert found is not None
    assert found.state == storage.READY
    assert "was blank and is formatted" in capsys.readouterr().out
    assert environment == {
        "HF_HOME": f"{target}/huggingface",
        "VLLM_CACHE_ROOT": f"{target}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{target}/inductor",
        "TRITON_CACHE_DIR": f"{target}/triton",
    }
    assert all(Path(directory).is_dir() for directory in environment.values())
    assert (target / "vllm/modelinfos/llama.json").read_text() == "{}"


def test_a_full_disk_still_serves_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "_mount", lambda *_arguments: None)
    monkeypatch.setattr(storage, "_SMALLEST_FREE", 2**62)
    environment = storage.attach(storage.Disk("/dev/vdc", storage.READY), {}, os.getuid(), str(tmp_path))
    assert list(environment) == ["HF_HOME"]
    assert "too little room" in capsys.readouterr().out


def test_a_full_disk_is_emptied_of_what_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The models on it stay: a guest without a way out could not get them again."""
    monkeypatch.setattr(storage, "_mount", lambda *_arguments: None)
    blobs = tmp_path / "huggingface/hub/models--org--m/blobs"
    for path in (blobs / "1234", blobs / "5678.incomplete", tmp_path / "triton/x/k.so", tmp_path / "inductor/i.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 4096)
    free = iter((0, 0, 300 * MIB, 300 * MIB))
    monkeypatch.setattr(storage, "_free", lambda _target: next(free))
    environment = storage.attach(storage.Disk("/dev/vdc", storage.READY), {}, os.getuid(), str(tmp_path))
    assert set(environment) == {"HF_HOME", *storage.COMPILED.values()}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1234"]
    assert capsys.readouterr().out == (
        "vllmd: cache disk: it was full; compiled code and broken downloads are removed (300 MiB)\n"
    )


def test_a_disk_that_cannot_be_mounted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = storage.Disk(str(tmp_path / "none"), storage.READY)
    assert storage.attach(disk, {}, os.getuid(), str(tmp_path / "target")) == {}
    assert "cannot be mounted: " in capsys.readouterr().out
