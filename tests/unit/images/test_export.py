"""Other forms of an image: the same tree in each, the same bytes each time, whole or not there, nothing mounted."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import (
    build_cleanup,
    image_export,
    image_manifest,
    images,
    oci_layout,
)
from tests.support import modules

FACTS: dict[str, Any] = {
    "schema_version": 1,
    "profile": "cpu",
    "debian": {"release": "bookworm", "architecture": "amd64"},
    "elements": ["vllmd-debian"],
    "packages": {},
    "wheels": {},
    "models": [],
    "cmdline": "ro",
    "kernel_release": "6.1",
}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts the image")


def listing(tree: Path) -> list[tuple[Any, ...]]:
    """Return what a guest can see of each path, but times."""
    rows = []
    for path in sorted([tree, *tree.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = str(path.readlink()) if path.is_symlink() else ""
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        mode = 0 if path.is_symlink() else status.st_mode
        rows.append((str(path.relative_to(tree)), mode, status.st_uid, status.st_gid, content, link, attributes))
    return [row for row in rows if row[0] != "lost+found"]


class Store:
    """A store with one image of a small tree."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.tree = root, root / "store", root / "tree"
        (self.tree / "etc").mkdir(parents=True)
        (self.tree / "usr/bin").mkdir(parents=True)
        (self.tree / "etc/hosts").symlink_to("/run/hosts")
        (self.tree / "etc/shadow").write_text("root:*:\n")
        (self.tree / "etc/shadow").chmod(0o640)
        os.chown(self.tree / "etc/shadow", 0, 42)
        (self.tree / "usr/bin/a").write_bytes(b"\x7fELF" * 50_000)
        (self.tree / "usr/bin/a").chmod(0o4755)
        (self.tree / "usr/bin/b").hardlink_to(self.tree / "usr/bin/a")
        os.setxattr(self.tree / "etc", "trusted.note", b"kept")
        partial = self.store / "demo/.000000000000.partial-1"
        partial.mkdir(parents=True)
        command = ["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-d", str(self.tree)]
        subprocess.run([*command, str(partial / "system.raw"), "8M"], check=True)
        for name in ("kernel", "initrd"):
            (partial / name).write_text(name)
        manifest = image_manifest.compose(partial, "demo", {"a": "1"}, FACTS)
        self.directory = images.publish(partial, self.store, {**manifest, "created": "2026-01-01T00:00:00Z"})
        self.arguments: dict[str, Any] = {
            "name": "demo",
            "store_dir": str(self.store),
            "cache_dir": str(root / "cache"),
            "formats": ["qcow2", "squashfs", "oci"],
        }

    def run(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        return modules.run("image_export", {**self.arguments, **changes}, self.root, check)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def assert_clean(self) -> None:
        assert not [path for path in (self.store / "demo").iterdir() if path.name.startswith(".")]
        assert str(self.root) not in Path("/proc/self/mountinfo").read_text()
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            assert str(self.root) not in backing.read_text()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def files(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (path.suffix in (".qcow2", ".squashfs") or "oci" in path.parts)
    }


@root_only
def test_every_form_holds_the_same_tree(store: Store, tmp_path: Path) -> None:
    told = store.run(check=True)
    assert told["made"] == dict.fromkeys(store.arguments["formats"], "was never made")
    assert "exports.json" not in store.names()
    published = store.directory.stat().st_mtime_ns
    done = store.run()
    assert done["changed"], done
    assert sorted(done["exports"]) == ["oci", "qcow2", "squashfs"]
    store.assert_clean()
    assert store.directory.stat().st_mtime_ns == published, "versions are ordered by the time of their publication"
    for entry in done["exports"].values():
        for name, expected in entry["files"].items():
            content = (store.directory / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == expected["sha256"]
            assert len(content) == expected["size_bytes"]

    expected_tree = listing(store.tree)
    subprocess.run(
        ["qemu-img", "convert", "-O", "raw", store.directory / "system.qcow2", tmp_path / "again.raw"], check=True
    )
    assert (tmp_path / "again.raw").read_bytes() == (store.directory / "system.raw").read_bytes()
    if shutil.which("unsquashfs"):
        command = ["unsquashfs", "-q", "-n", "-d", str(tmp_path / "squash"), str(store.directory / "system.squashfs")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert listing(tmp_path / "squash") == expected_tree
    assert listing(unpacked(store.directory / "oci", tmp_path / "oci")) == expected_tree


def unpacked(layout: Path, target: Path) -> Path:
    """Check the layout as a reader does, by its digests, and unpack its layer."""

    def blob(entry: dict[str, Any]) -> bytes:
        content = (layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == entry["digest"]
        assert len(content) == entry["size"]
        return content

    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    (layer,) = manifest["layers"]
    archive = gzip.decompress(blob(layer))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(archive).hexdigest()}"]
    assert config["architecture"] == "amd64"
    assert config["created"] == "2026-01-01T00:00:00Z"
    target.mkdir()
    subprocess.run(
        ["tar", "-x", "--numeric-owner", "--same-owner", "-p", "--xattrs", "--xattrs-include=*", "-C", str(target)],
        input=archive,
        check=True,
    )
    return target


@root_only
def test_what_is_as_it_should_be_is_left_alone_and_the_same_bytes_come_out_again(store: Store) -> None:
    store.run()
    first = files(store.directory)
    inodes = {name: (store.directory / name).stat().st_ino for name in first}
    assert not store.run()["changed"]
    assert {name: (store.directory / name).stat().st_ino for name in first} == inodes
    path = store.directory / "oci/index.json"
    path.chmod(0o644)
    path.write_text("{}")
    (store.directory / "system.squashfs").unlink()
    again = store.run()
    assert again["made"] == {"squashfs": "lacks system.squashfs", "oci": "was changed: oci/index.json"}
    assert files(store.directory) == first
    assert (store.directory / "system.qcow2").stat().st_ino == inodes["system.qcow2"]
    shutil.rmtree(store.directory / "oci")
    for name in ("system.qcow2", "system.squashfs", "exports.json"):
        (store.directory / name).unlink()
    store.run()
    assert files(store.directory) == first
    store.assert_clean()


@root_only
def test_removing_is_the_way_back(store: Store) -> None:
    before = store.names()
    store.run(formats=["qcow2", "oci"])
    assert store.run(state="absent", formats=["qcow2"], check=True)["changed"]
    assert "system.qcow2" in store.names()
    assert sorted(store.run(state="absent", formats=["qcow2"])["exports"]) == ["oci"]
    assert not store.run(state="absent", formats=["qcow2"])["changed"]
    store.run(state="absent")
    assert store.names() == before


@root_only
def test_an_image_that_is_not_what_its_manifest_says_is_not_exported(store: Store) -> None:
    path = store.directory / "system.raw"
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"x")
    failed = store.run()
    assert failed["msg"].startswith(f"image file {path} has sha256 ")
    assert "exports.json" not in store.names()
    store.assert_clean()


@root_only
def test_a_command_that_fails_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.run(formats=["qcow2"])
    there = store.names()
    monkeypatch.setattr(
        image_export, "tar_command", lambda epoch: ["sh", "-c", f"echo {epoch}; echo broken >&2; exit 3"]
    )
    with pytest.raises(image_manifest.ImageError) as caught:
        image_export.export(store.store, "demo", "latest", ["oci"])
    assert str(caught.value) == f"reading {store.directory}/system.raw failed: broken"
    assert store.names() == there
    store.assert_clean()


@root_only
def test_a_killed_export_leaves_nothing_mounted_and_the_next_one_tidies_up(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from ansible_collections.vllmd.platform.plugins.module_utils import image_export as e;"
        "e.tar_command = lambda epoch: ['sleep', '300'];"
        "e.export(Path(sys.argv[1]), 'demo', 'latest', ['oci'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.store)], env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
    )

    def attached() -> bool:
        return any(str(store.root) in path for _loop, path in build_cleanup.loop_files(Path("/sys/block")))

    def wait_for(state: bool) -> None:
        deadline = time.monotonic() + 60
        while attached() != state:
            assert time.monotonic() < deadline, f"the loop device is {'not there' if state else 'still there'}"
            time.sleep(0.05)

    wait_for(True)
    process.kill()
    process.wait()
    wait_for(False)
    assert [path for path in (store.store / "demo").iterdir() if path.name.startswith(".")]
    assert store.run(formats=["oci"])["changed"]
    store.assert_clean()


@root_only
def test_signed_exports_carry_a_signature_over_their_list(store: Store, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
    key.chmod(0o600)
    store.run(formats=["qcow2"])
    signed = store.run(formats=["qcow2"], signing_key=str(key))
    assert signed["made"] == {"signature": "is not by this key"}
    assert json.loads((store.directory / "exports.sig").read_text())["algorithm"] == "ed25519"
    assert not store.run(formats=["qcow2"], signing_key=str(key))["changed"]


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_export.shutil, "which", lambda _program, **_path: None)
    with pytest.raises(image_manifest.ImageError) as caught:
        image_export.check_programs(["squashfs"])
    assert str(caught.value) == (
        "export squashfs needs mksquashfs, which is not installed; install the package squashfs-tools"
    )


def test_the_container_is_the_engine_where_there_is_one() -> None:
    with_engine = image_export.execution({"elements": ["vllmd-runtime", "vllmd-vllm"]})
    assert with_engine["User"] == "vllmd"
    assert with_engine["Entrypoint"][1:] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert image_export.execution({"elements": ["vllmd-debian"]})["Entrypoint"] == ["/lib/systemd/systemd"]


def test_a_layout_is_the_same_for_the_same_archive(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        archive.seek(0)
        digests.append(
            oci_layout.write(
                tmp_path / name,
                archive,
                architecture="amd64",
                created="2026-01-01T00:00:00Z",
                config={"Env": ["A=b"]},
                reference="v1",
                labels={"a": "b"},
            )
        )
    assert digests[0] == digests[1]
    assert len(list((tmp_path / "one/blobs/sha256").iterdir())) == 3
