"""Where a node's programs come from: files by their digests, or one signed repository; anything else is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ELF = b"\x7fELF\x02\x01\x01" + bytes(11)
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"


@pytest.fixture(scope="module")
def source(element_script: Callable[[str], ModuleType]) -> ModuleType:
    return element_script("vllmd-kubernetes-node/lib/vllmd_kubernetes_source.py")


@pytest.fixture(scope="module")
def check(element_script: Callable[[str], ModuleType]) -> ModuleType:
    return element_script("vllmd-kubernetes-node/lib/vllmd_kubernetes_check.py")


@pytest.fixture
def files(source: ModuleType, tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    (directory / "cni").mkdir(parents=True)
    for name in (*source.REQUIRED, "cni/bridge"):
        (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
    (directory / "kubectl").write_bytes(ELF + (0x3E).to_bytes(2, "little"))
    sums = [f"{digest(directory / name)}  {name}\n" for name in (*source.REQUIRED, "cni/bridge")]
    (directory / "SHA256SUMS").write_text("".join(sums))
    return directory


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment(**values: str) -> dict[str, str]:
    return {"ARCH": "amd64", **{f"DIB_VLLMD_KUBERNETES_{name}": value for name, value in values.items()}}


@pytest.mark.parametrize("form", ["SHA256SUMS", "files.json", "files.yaml"])
def test_files_are_taken_by_their_digests(source: ModuleType, files: Path, tmp_path: Path, form: str) -> None:
    if form != "SHA256SUMS":
        listed = source.digests(files)
        (files / "SHA256SUMS").unlink()
        entries = {name: {"sha256": value} for name, value in listed.items()}
        (files / form).write_text(json.dumps({"files": entries}))
    source.prepare(environment(DIR=str(files)), tmp_path / "out")
    taken = json.loads((tmp_path / "out/files.json").read_text())
    assert sorted(taken) == ["cni/bridge", "crictl", "kubeadm", "kubectl", "kubelet"]
    assert taken["kubelet"] == f"sha256:{digest(files / 'kubelet')}"
    assert (tmp_path / "out/files/kubelet").stat().st_mode & 0o777 == 0o755


def refusal(source: ModuleType, variables: dict[str, str], target: Path) -> str:
    with pytest.raises(source.SourceError) as caught:
        source.prepare(variables, target)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_that_is_not_what_its_list_says_is_refused(source: ModuleType, files: Path, tmp_path: Path) -> None:
    (files / "kubelet").write_text("tampered")
    text = refusal(source, environment(DIR=str(files)), tmp_path / "out")
    assert text.startswith(f"{files}/kubelet has sha256 {digest(files / 'kubelet')}, its list says ")
    assert text.endswith("fetch the file again")


def test_a_missing_file_is_refused(source: ModuleType, files: Path, tmp_path: Path) -> None:
    (files / "crictl").unlink()
    assert refusal(source, environment(DIR=str(files)), tmp_path / "out") == (
        f"cannot take {files}/crictl: No such file or directory; put the file there or leave it out"
    )


def test_a_program_for_another_architecture_is_refused(source: ModuleType, files: Path, tmp_path: Path) -> None:
    text = refusal(source, {**environment(DIR=str(files)), "ARCH": "arm64"}, tmp_path / "out")
    assert text == f"{files}/kubectl is no program for arm64; take the arm64 build"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "does not list kubelet, kubeadm, kubectl, crictl; a node needs"),
        ("0000  kubelet\n", "'kubelet': '0000' is no file name with a SHA-256; correct the list"),
        (f"{'0' * 64}  ../etc/passwd\n", "'../etc/passwd': "),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    source: ModuleType, files: Path, tmp_path: Path, content: str, sentence: str
) -> None:
    (files / "SHA256SUMS").write_text(content)
    assert sentence in refusal(source, environment(DIR=str(files)), tmp_path / "out")


def test_two_lists_or_none_are_refused(source: ModuleType, files: Path, tmp_path: Path) -> None:
    (files / "files.json").write_text("{}")
    assert "holds SHA256SUMS and files.json" in refusal(source, environment(DIR=str(files)), tmp_path / "out")
    (files / "files.json").unlink()
    (files / "SHA256SUMS").unlink()
    assert "holds no list of digests" in refusal(source, environment(DIR=str(files)), tmp_path / "out")


@pytest.mark.parametrize(
    ("variables", "what"), [({}, "neither is set"), ({"DIR": "/a", "APT": "deb x"}, "both are set")]
)
def test_one_source_has_to_be_given(source: ModuleType, tmp_path: Path, variables: dict[str, str], what: str) -> None:
    assert refusal(source, environment(**variables), tmp_path).endswith(f"and {what}; set one")


@pytest.mark.parametrize(
    "given",
    [
        "deb [arch=amd64 signed-by=/x] https://packages.example.com/v1.33/deb/ /",
        "Types: deb\nURIs: https://packages.example.com/v1.33/deb/\nSuites: /\n",
        "file",
    ],
)
def test_a_repository_is_signed_by_the_given_key_alone(source: ModuleType, tmp_path: Path, given: str) -> None:
    key = tmp_path / "key.asc"
    key.write_text(KEY)
    if given == "file":
        given = str(tmp_path / "given.sources")
        Path(given).write_text("# ours\nTypes: deb\nURIs:\n https://packages.example.com/v1.33/deb/\nSuites: /\n")
    source.prepare(environment(APT=given, APT_KEY=str(key)), tmp_path / "out")
    assert (tmp_path / "out/vllmd-kubernetes.sources").read_text() == (
        "Types: deb\nURIs: https://packages.example.com/v1.33/deb/\nSuites: /\n"
        "Signed-By: /etc/apt/keyrings/vllmd-kubernetes.asc\n"
    )
    assert (tmp_path / "out/vllmd-kubernetes.asc").read_text() == KEY


def test_a_directory_of_the_builder_is_a_repository_too(source: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "key.gpg").write_bytes(b"\x99\x01")
    variables = environment(APT=f"deb file:{tmp_path} ./", APT_KEY=str(tmp_path / "key.gpg"))
    source.prepare(variables, tmp_path / "out")
    assert (tmp_path / "out/directory").read_text() == str(tmp_path)
    text = (tmp_path / "out/vllmd-kubernetes.sources").read_text()
    assert f"URIs: file:{source.REPOSITORY}\n" in text
    assert "vllmd-kubernetes.gpg" in text


@pytest.mark.parametrize(
    ("given", "key", "sentence"),
    [
        ("deb [trusted=yes] https://a.example.com /", KEY, "only signed repositories are used"),
        ("Types: deb\nURIs: https://a.example.com\nSuites: /\nAllow-Insecure: yes", KEY, "only signed repositories"),
        ("deb ftp://a.example.com /", KEY, "only https, http and file are possible"),
        ("https://a.example.com", KEY, "is no apt source; give one line 'deb URI SUITE COMPONENT' or deb822 text"),
        ("deb https://a.example.com /", "-----BEGIN PGP PRIVATE KEY BLOCK-----", "is no public key"),
        ("deb https://a.example.com /", None, "cannot read the repository's key"),
        ("deb file:/nowhere/at/all ./", KEY, "/nowhere/at/all is no directory of the builder"),
        ("/nowhere.sources", KEY, "cannot read DIB_VLLMD_KUBERNETES_APT=/nowhere.sources"),
    ],
)
def test_a_repository_without_proof_is_refused(
    source: ModuleType, tmp_path: Path, given: str, key: str | None, sentence: str
) -> None:
    path = tmp_path / "key"
    if key is not None:
        path.write_text(key)
    assert sentence in refusal(source, environment(APT=given, APT_KEY=str(path)), tmp_path / "out")


def test_a_repository_needs_its_key(source: ModuleType, tmp_path: Path) -> None:
    text = refusal(source, environment(APT="deb https://a.example.com /"), tmp_path / "out")
    assert "set DIB_VLLMD_KUBERNETES_APT_KEY" in text


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.33.1\n", (1, 33, 1)),
        ("Client Version: v1.33.1\nKustomize Version: v5.6.0\n", (1, 33, 1)),
        ("crictl version v1.33.0", (1, 33, 0)),
        ("v1.20.2-dirty", (1, 20, 2)),
        ("no version", None),
    ],
)
def test_versions_are_read_from_what_programs_say(check: ModuleType, text: str, version: object) -> None:
    assert check.version_in(text) == version


@pytest.mark.parametrize(
    ("changes", "wanted", "sentence"),
    [
        ({}, "", None),
        ({}, "1.33", None),
        ({}, "v1.33.1", None),
        ({"kubeadm": (1, 34, 0)}, "", "kubelet is v1.33.1 and kubeadm v1.34.0; give both in the same minor version"),
        ({"kubectl": (1, 35, 0)}, "", "kubectl is v1.35.0 and kubelet v1.33.1; they may differ by one minor version"),
        ({"kubectl": (1, 34, 0)}, "", None),
        ({}, "1.32", "kubelet is v1.33.1, and DIB_VLLMD_KUBERNETES_VERSION asks for 1.32; correct one"),
    ],
)
def test_programs_have_to_fit_each_other(
    check: ModuleType, changes: dict[str, tuple[int, int, int]], wanted: str, sentence: str | None
) -> None:
    versions = {"kubelet": (1, 33, 1), "kubeadm": (1, 33, 0), "kubectl": (1, 33, 1), "crictl": (1, 30, 0), **changes}
    if sentence is None:
        check.check(versions, wanted)
        return
    with pytest.raises(check.CheckError) as caught:
        check.check(versions, wanted)
    assert str(caught.value) == sentence
