"""What nodes of a test cluster are given: container images, and packages in a signed repository."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

LOADER = 3  # PT_INTERP
SHARED = Path(__file__).parents[3] / "molecule/shared/kubernetes"


def segments(program: bytes) -> list[int]:
    """The types of a 64-bit program's segments (System V ABI, "Program Header")."""
    (start,) = struct.unpack_from("<Q", program, 0x20)
    size, count = struct.unpack_from("<HH", program, 0x36)
    return [struct.unpack_from("<I", program, start + number * size)[0] for number in range(count)]


def run(script: str, *arguments: object) -> str:
    """Run one of the scripts; what it printed."""
    command = [sys.executable, str(SHARED / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both images."""
    directory = tmp_path_factory.mktemp("images")
    run("container_images.py", directory)
    return directory


@pytest.mark.parametrize(("name", "program"), [("pause", "pause"), ("busybox", "bin/busybox")])
def test_an_image_holds_one_static_program_and_says_its_digest(images: Path, name: str, program: str) -> None:
    with tarfile.open(images / f"{name}.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (manifest,) = json.loads(members["manifest.json"])
    assert manifest["RepoTags"] == [f"bed.invalid/{name}:1"]
    config = json.loads(members[manifest["Config"]])
    layer = members[manifest["Layers"][0]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"]["Entrypoint"] == [f"/{program}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tree:
        file = tree.extractfile(program)
        assert file
        content = file.read()
    assert content[:4] == b"\x7fELF"
    assert LOADER not in segments(content), "the image has no loader"


def test_the_same_inputs_are_the_same_image(images: Path, tmp_path: Path) -> None:
    run("container_images.py", tmp_path)
    for name in ("pause.tar", "busybox.tar"):
        assert (tmp_path / name).read_bytes() == (images / name).read_bytes()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs that nobody runs here."""
    directory = tmp_path_factory.mktemp("programs")
    for name in ("kubelet", "kubeadm", "kubectl", "crictl"):
        (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
        (directory / name).chmod(0o755)
    return directory


def test_packages_are_laid_out_like_the_projects_own(programs: Path, tmp_path: Path) -> None:
    repository = Path(run("repository.py", programs, "1.20.2", tmp_path))
    found = {}
    for deb in (repository / "packages").glob("*.deb"):
        listed = subprocess.run(["dpkg-deb", "-c", deb], check=True, capture_output=True, text=True).stdout
        found[deb.stem] = {line.split()[-1][2:] for line in listed.splitlines() if not line.endswith("/")}
    assert found == {
        "kubelet": {"usr/bin/kubelet", "lib/systemd/system/kubelet.service"},
        "kubeadm": {"usr/bin/kubeadm", "lib/systemd/system/kubelet.service.d/10-kubeadm.conf"},
        "kubectl": {"usr/bin/kubectl"},
        "cri-tools": {"usr/bin/crictl"},
    }
    assert "Version: 1.20.2-1.1" in (repository / "packages/Packages").read_text()
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch"]
    subprocess.run([*gpg, "--import", repository / "key.asc"], check=True, capture_output=True)
    subprocess.run([*gpg, "--verify", repository / "packages/InRelease"], check=True, capture_output=True)
    assert b"PRIVATE" not in (repository / "key.asc").read_bytes()


def test_the_same_programs_are_packaged_once(programs: Path, tmp_path: Path) -> None:
    first = Path(run("repository.py", programs, "1.20.2", tmp_path))
    made = (first / "packages/InRelease").read_bytes()
    assert Path(run("repository.py", programs, "1.20.2", tmp_path)) == first
    assert (first / "packages/InRelease").read_bytes() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, f"{first.name}.lock"]
    assert Path(run("repository.py", programs, "1.20.3", tmp_path)) != first


@pytest.fixture
def control_plane_images(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes a control plane's images."""
    monkeypatch.syspath_prepend(str(SHARED))
    return importlib.import_module("control_plane_images")


def test_a_program_comes_with_the_libraries_that_it_loads(control_plane_images: ModuleType) -> None:
    found = control_plane_images.from_tree(Path("/"), ("/usr/bin/env",))
    assert found["usr/bin/env"] == Path("/usr/bin/env").read_bytes()
    assert any(name.endswith("/libc.so.6") for name in found)
    assert any("/ld-linux" in f"/{name}" for name in found)
    assert all(content[:4] == b"\x7fELF" for content in found.values())


def test_images_have_the_names_that_kubeadm_asks_for(control_plane_images: ModuleType, tmp_path: Path) -> None:
    kubeadm = tmp_path / "kubeadm"
    kubeadm.write_text(
        '#!/bin/sh\n[ "$7" = v1.33.1 ] && printf "bed.invalid/%s\\n" kube-proxy:v1.33.1 coredns/coredns:v1.12.0\n'
    )
    kubeadm.chmod(0o755)
    found = control_plane_images.names(tmp_path, "1.33.1")
    assert found == {"kube-proxy": "bed.invalid/kube-proxy:v1.33.1", "coredns": "bed.invalid/coredns/coredns:v1.12.0"}
