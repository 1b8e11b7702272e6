"""The config image, made by the real xorriso: the same bytes for the same content, and what a guest finds on it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import config_iso
from tests.support import modules

GUEST: dict[str, Any] = {
    "schema_version": 1,
    "name": "demo",
    "uid": "ae5205e8-0f3f-52f6-b8e4-25c1c3ac19dd",
    "model": {"name": "m", "path": "/var/lib/vllmd/models/m", "repository": "m", "source": "local"},
    "engine": {"dtype": "float32"},
    "environment": {"HF_TOKEN": "s3cr3t"},
    "api": {"host": "0.0.0.0", "port": 8000},  # noqa: S104 - what the contract says
    "hostname": "demo",
    "ssh_authorized_keys": ["ssh-ed25519 AAAA é"],
    "network": {"mode": "static", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]},
}


def write(path: Path, check: bool = False, **changes: Any) -> dict[str, Any]:
    return modules.run("config_image", {"path": str(path), "guest": {**GUEST, **changes}}, path.parent, check)


def extract(image: Path, name: str) -> bytes:
    target = image.with_name("extracted")
    target.unlink(missing_ok=True)
    command = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", str(image), "-extract", f"/{name}", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    target.chmod(0o600)
    return target.read_bytes()


def test_the_same_content_gives_the_same_bytes_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"b": b"1", "a/c": b"2", "a/b": b"3"}
    digests = set()
    for name, zone, umask in (("one", "UTC", 0o022), ("a longer place", "Asia/Tokyo", 0o077)):
        monkeypatch.setenv("TZ", zone)
        before = os.umask(umask)
        try:
            (tmp_path / name).mkdir()
            image = config_iso.make(dict(reversed(files.items())) if umask else files, tmp_path / name)
        finally:
            os.umask(before)
        digests.add(hashlib.sha256(image).hexdigest())
    assert len(digests) == 1


def test_a_guest_finds_its_files_by_the_label(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    result = write(path)
    assert result["changed"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes()[32768 + 40 : 32768 + 72].decode().strip() == "CIDATA"
    assert json.loads(extract(path, "vllmd/runtime.json")) == GUEST
    assert json.loads(extract(path, "meta-data"))["local-hostname"] == "demo"
    user_data = extract(path, "user-data")
    assert user_data.startswith(b"#cloud-config\n")
    assert json.loads(user_data.partition(b"\n")[2])["ssh_authorized_keys"] == GUEST["ssh_authorized_keys"]
    network = json.loads(extract(path, "network-config"))
    assert network["version"] == 2
    assert network["ethernets"]["primary"]["addresses"] == ["10.0.2.15/24"]


def test_it_changes_only_when_a_guest_would_see_it(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    would = write(path, check=True)
    assert would["changed"]
    assert not path.exists()
    first = write(path)
    assert first["sha256"] == would["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    inode = path.stat().st_ino
    assert not write(path)["changed"]
    assert path.stat().st_ino == inode
    path.chmod(0o600)
    assert write(path)["changed"], "the mode is restored"
    assert path.stat().st_ino == inode
    assert write(path, hostname="other")["changed"]


def test_the_diff_names_the_field_and_hides_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    write(path)
    result = write(path, check=True, engine={"dtype": "bfloat16"}, environment={"HF_TOKEN": "n3w"})
    before, after = json.loads(result["diff"]["before"]), json.loads(result["diff"]["after"])
    assert (before["engine"], after["engine"]) == ({"dtype": "float32"}, {"dtype": "bfloat16"})
    assert (before["environment"], after["environment"]) == (
        {"HF_TOKEN": "(hidden)"},
        {"HF_TOKEN": "(hidden, changed)"},
    )
    assert "s3cr3t" not in json.dumps(result["diff"])


CLUSTER = {"api_endpoint": "10.0.0.10:6443", "ca_pins": ["sha256:" + "0" * 64]}
TOKENS = ("abcdef.0123456789abcdef", "ghijkl.0123456789abcdef")


def write_with(path: Path, token: str) -> dict[str, Any]:
    """Write the config image of a guest that joins a cluster."""
    arguments = {"path": str(path), "guest": {**GUEST, "kubernetes": CLUSTER}, "kubernetes_token": token}
    return modules.run("config_image", arguments, path.parent)


def test_a_new_token_replaces_the_image_and_restarts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    first = write_with(path, TOKENS[0])
    assert json.loads(extract(path, "vllmd/runtime.json"))["kubernetes"] == {**CLUSTER, "token": TOKENS[0]}
    os.utime(path, (1000, 1000))
    second = write_with(path, TOKENS[1])
    assert second["changed"]
    assert second["sha256"] != first["sha256"]
    assert path.stat().st_mtime == 1000
    assert path.stat().st_mode & 0o777 == 0o640
    assert not write_with(path, TOKENS[1])["changed"]
    assert not any(token in json.dumps([first, second]) for token in TOKENS)
    assert write(path)["changed"]
    assert path.stat().st_mtime > 1000


def test_a_cluster_without_a_token_is_one_line(tmp_path: Path) -> None:
    arguments = {"path": str(tmp_path / "config.iso"), "guest": {**GUEST, "kubernetes": CLUSTER}}
    result = modules.run("config_image", arguments, tmp_path)
    assert result["failed"]
    assert result["msg"].startswith("guest is to join 10.0.0.10:6443 without a token; give kubernetes_token")


def test_an_image_keeps_its_token(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    write_with(path, TOKENS[0])
    guest = {**GUEST, "kubernetes": CLUSTER}
    arguments = {"path": str(path), "guest": guest, "keep_kubernetes_token": True}
    kept = modules.run("config_image", arguments, tmp_path)
    assert (kept["changed"], kept["kubernetes_token_id"]) == (False, TOKENS[0][:6])
    arguments["guest"] = {**guest, "hostname": "other"}
    changed = modules.run("config_image", arguments, tmp_path)
    assert (changed["changed"], changed["kubernetes_token_id"]) == (True, TOKENS[0][:6])
    assert json.loads(extract(path, "vllmd/runtime.json"))["kubernetes"]["token"] == TOKENS[0]
    path.unlink()
    assert "without a token" in modules.run("config_image", arguments, tmp_path)["msg"]
    # A dry run makes no token, and is to say that there would be an image.
    dry = modules.run("config_image", arguments, tmp_path, check=True)
    assert dry["changed"]
    assert not path.exists()


def test_an_image_that_is_no_image_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    path.write_bytes(b"not an image")
    assert write(path)["changed"]
    assert not [each for each in tmp_path.iterdir() if "partial" in each.name]


@pytest.mark.parametrize(
    ("path", "guest", "sentence"),
    [
        ("gone/config.iso", GUEST, "cannot write the config image {root}/gone/config.iso: No such file or directory"),
        ("config.iso", {"name": "x"}, "guest is no runtime.json of schema version 1 (KeyError 'hostname'); give "
         "runtime_manifest's guest"),
        ("config.iso", None, "state is present but all of the following are missing: guest"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path: Path, path: str, guest: dict[str, Any] | None, sentence: str) -> None:
    arguments = {"path": str(tmp_path / path), **({"guest": guest} if guest else {})}
    result = modules.run("config_image", arguments, tmp_path)
    assert result["failed"]
    assert result["msg"] == sentence.format(root=tmp_path)


def test_without_xorriso_the_package_is_named(tmp_path: Path) -> None:
    def missing(_arguments: list[str], _environment: dict[str, str]) -> tuple[int, str]:
        raise FileNotFoundError("xorriso")

    with pytest.raises(config_iso.IsoError, match="xorriso is not installed; install the package xorriso"):
        config_iso.make({"a": b""}, tmp_path, missing)


def test_xorrisos_own_complaint_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(config_iso.IsoError, match=r"ended with status 5: b; c$"):
        config_iso.make({"a": b""}, tmp_path, lambda _arguments, _environment: (5, "a\nb\n\nc\n"))


def test_absent_is_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    write(path)
    arguments = {"path": str(path), "state": "absent"}
    assert modules.run("config_image", arguments, tmp_path, check=True)["changed"]
    assert path.exists()
    assert modules.run("config_image", arguments, tmp_path)["changed"]
    assert not path.exists()
    assert not modules.run("config_image", arguments, tmp_path)["changed"]
