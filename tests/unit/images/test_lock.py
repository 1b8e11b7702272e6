"""The lock file: what it says, what a build makes of it, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import image_lock, locked_packages
from ansible_collections.vllmd.platform.plugins.module_utils.digests import DigestCache
from ansible_collections.vllmd.platform.plugins.module_utils.image_lock import LockFileError

SCHEMA = json.loads((Path(image_lock.__file__).parent / "schemas/image-lock-v1.schema.json").read_text())
PIN = {
    "version": "3.0.17-1~deb12u2",
    "architecture": "amd64",
    "sha256": "ab" * 32,
    "size_bytes": 10,
    "filename": "pool/main/o/openssl/openssl_3.0.17-1~deb12u2_amd64.deb",
    "source": "openssl 3.0.17-1~deb12u2",
    "licences": ["Apache-2.0"],
}
FACTS: dict[str, Any] = {
    "lock": {
        "packages": {"openssl": PIN},
        "wheels": {
            "torch": {"version": "2.13.0", "file": "torch-2.13.0-cp311-cp311-linux_x86_64.whl", "sha256": "cd" * 32}
        },
    },
    "build": {"source_date_epoch": 1700000000},
    "rootfs": {"digest": "sha256:" + "01" * 32},
    "models": [{"name": "demo", "digest": "sha256:" + "02" * 32}],
}
INPUTS = {"element demo": "sha256:" + "03" * 32, "setting release": "bookworm", "tool e2fsprogs": "1.47.0-2"}
FILES = {"system.raw": "04" * 32, "kernel": "05" * 32, "initrd": "06" * 32}


@pytest.fixture
def lock() -> dict[str, Any]:
    return copy.deepcopy(image_lock.compose("demo", INPUTS, FACTS, FILES))


def test_a_lock_fits_its_schema_and_is_read_as_it_was_written(lock: dict[str, Any], tmp_path: Path) -> None:
    jsonschema.validate(lock, SCHEMA)
    image_lock.write(tmp_path / "locks/image.lock", lock)
    assert image_lock.load(tmp_path / "locks/image.lock") == lock


def test_the_same_inputs_are_accepted_and_others_are_named(lock: dict[str, Any]) -> None:
    path = Path("/locks/image.lock")
    locked = {**INPUTS, **image_lock.inputs_of(lock)}
    image_lock.check_inputs(path, lock, "demo", INPUTS)
    image_lock.check_inputs(path, lock, "demo", locked)
    assert image_lock.without_lock(locked) == dict(sorted(INPUTS.items()))
    with pytest.raises(LockFileError, match=r"tool e2fsprogs \(1.47.0-2 in the lock, 1.47.2-3 here\)"):
        image_lock.check_inputs(path, lock, "demo", {**INPUTS, "tool e2fsprogs": "1.47.2-3"})
    with pytest.raises(LockFileError, match=r"model new \(new\) \(nothing in the lock, 070707070707 here\)"):
        image_lock.check_inputs(path, lock, "demo", {**INPUTS, "model new": "sha256:" + "07" * 32})
    with pytest.raises(LockFileError, match="is for image demo, not other"):
        image_lock.check_inputs(path, lock, "other", INPUTS)


def test_what_changed_is_a_line_each(lock: dict[str, Any]) -> None:
    assert image_lock.differences(None, lock) == ["new: 1 packages, 1 wheels, 1 models"]
    new = copy.deepcopy(lock)
    assert image_lock.differences(lock, new) == []
    image_lock.check_result(Path("/l"), lock, new)
    new["packages"]["openssl"]["version"] = "3.0.18-1"
    new["packages"]["acpid"] = {**PIN, "version": "1:2.0"}
    del new["wheels"]["torch"]
    new["outputs"]["rootfs"] = "sha256:" + "08" * 32
    assert image_lock.differences(lock, new) == [
        "package acpid 1:2.0 (new)",
        "package openssl 3.0.17-1~deb12u2 -> 3.0.18-1",
        "wheel torch 2.13.0 (gone)",
        "output rootfs 010101010101 -> 080808080808",
    ]
    with pytest.raises(LockFileError, match="did not come out as lock file /l says: package acpid"):
        image_lock.check_result(Path("/l"), lock, new)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("schema_version",), 2, "field schema_version: found 2; allowed: 1"),
        (("packages",), [], "field packages: no dict"),
        (("packages", "openssl", "sha256"), "abc", "package openssl: sha256 is no digest"),
        (("packages", "openssl", "filename"), "pool/../../etc/cron.d/x.deb", "filename no path of a .deb"),
        (("packages", "openssl", "filename"), "/etc/cron.d/x.deb", "filename no path of a .deb"),
        (("packages", "openssl", "size_bytes"), "10", "package openssl: without version"),
        (("wheels", "torch"), "2.13.0", "wheel torch: without version, file, sha256"),
        (("outputs",), {}, "field outputs: without rootfs and files"),
        (("more",), 1, "not one JSON object with exactly the fields"),
    ],
)
def test_a_lock_that_is_none_is_one_line(
    lock: dict[str, Any], tmp_path: Path, place: tuple[str, ...], value: Any, sentence: str
) -> None:
    target = lock
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (tmp_path / "image.lock").write_bytes(image_lock.dump(lock))
    with pytest.raises(LockFileError, match=sentence) as refused:
        image_lock.load(tmp_path / "image.lock")
    assert "\n" not in str(refused.value)


def test_a_lock_that_is_not_there_or_no_json_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LockFileError, match="is not there; make it"):
        image_lock.load(tmp_path / "image.lock")
    (tmp_path / "image.lock").write_text("{")
    with pytest.raises(LockFileError, match="is no JSON"):
        image_lock.load(tmp_path / "image.lock")


def make_package(directory: Path, name: str, version: str) -> tuple[Path, dict[str, Any]]:
    """Make a Debian package as apt would leave it in its cache; return it with its pin."""
    tree = directory / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: x\n"
    )
    file = directory / locked_packages.cached_name(name, version, "all")
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, file], check=True, capture_output=True)
    pin = {
        **PIN,
        "version": version,
        "architecture": "all",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "size_bytes": file.stat().st_size,
        "filename": f"pool/main/{name}_{version.partition(':')[2] or version}_all.deb",
    }
    return file, pin


def test_a_repository_holds_exactly_the_locked_packages(tmp_path: Path) -> None:
    downloads, archive = tmp_path / "downloads", tmp_path / "archive"
    downloads.mkdir()
    archive.mkdir()
    _file, here = make_package(downloads, "here", "1:1.0")
    other, there = make_package(archive, "there", "2.0")
    (archive / "pool/main").mkdir(parents=True)
    other.rename(archive / there["filename"])
    cache = DigestCache(tmp_path / "digests.json")
    mirrors = [f"file://{tmp_path}/nothing", f"file://{archive}"]
    locked_packages.repository({"here": here, "there": there}, downloads, mirrors, tmp_path / "repository", cache)
    index = (tmp_path / "repository/Packages").read_text()
    assert [line for line in index.splitlines() if line.startswith(("Package:", "Filename:"))] == [
        "Package: here",
        "Filename: pool/main/here_1.0_all.deb",
        "Package: there",
        "Filename: pool/main/there_2.0_all.deb",
    ]
    assert (downloads / "there_2.0_all.deb").is_file(), "what was fetched is kept"


def test_a_package_that_nobody_serves_any_more_is_named(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    file, pin = make_package(downloads, "old", "1.0")
    file.write_bytes(b"something else")
    with pytest.raises(LockFileError, match=r"nor on a mirror any more: old 1\.0; name a mirror"):
        locked_packages.repository(
            {"old": pin}, downloads, [f"file://{tmp_path}/none"], tmp_path / "r", DigestCache(tmp_path / "d.json")
        )
    assert sorted(path.name for path in downloads.iterdir() if path.is_file()) == []
