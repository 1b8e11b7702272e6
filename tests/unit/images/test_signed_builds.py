"""Modules image_build with a signing key and image_verify with trusted keys, as processes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import modules

FAKE = Path(__file__).with_name("fake-disk-image-create")


class Site:
    """A builder with a signing key, and a host that trusts it; both use one store."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        (root / "elements/demo/install.d").mkdir(parents=True)
        (root / "elements/demo/install.d/10-demo").write_text("#!/bin/sh\n")
        self.key, self.other = self.make_key("images"), self.make_key("other")
        self.arguments: dict[str, Any] = {
            "name": "demo",
            "elements": ["demo"],
            "elements_path": [str(root / "elements")],
            "program": str(FAKE),
            "cache_dir": str(root / "cache"),
            "store_dir": str(self.store),
            "build_dir": str(root / "build"),
            "log_path": str(root / "log/demo.log"),
            "min_free_mib": 1,
        }

    def make_key(self, name: str) -> str:
        key = self.root / f"{name}.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        key.chmod(0o600)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub")], check=True)
        return str(key)

    def build(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        return modules.run("image_build", {**self.arguments, **changes}, self.root, check)

    def verify(self, **changes: Any) -> dict[str, Any]:
        return modules.run("image_verify", {"name": "demo", "store_dir": str(self.store), **changes}, self.root)

    def trusts(self, key: str) -> dict[str, Any]:
        """Verify with the public half of ``key``."""
        return self.verify(trusted_keys=[str(Path(key).with_suffix(".pub"))])

    def built(self) -> int:
        """Return when the last build ran, in nanoseconds since 1970."""
        return (self.root / "cache/dib/called").stat().st_mtime_ns


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_an_image_is_published_with_its_signature(site: Site) -> None:
    result = site.build(signing_key=site.key)
    assert (Path(result["path"]) / "manifest.sig").is_file()
    assert site.trusts(site.key)["signed_by"] == result["signed_by"]
    text = Path(site.key).with_suffix(".pub").read_text()
    assert site.verify(trusted_keys=[text])["version"] == result["version"]
    assert "is not trusted (trusted: sha256:" in site.trusts(site.other)["msg"]
    again = site.build(signing_key=site.key)
    assert (again["changed"], again["action"]) == (False, "none")
    assert not site.build()["changed"], "without a key the signature stays"
    assert site.trusts(site.key)["version"] == result["version"]


def test_an_unchanged_image_is_signed_without_a_build(site: Site) -> None:
    version, built = site.build()["version"], site.built()
    assert "signed_by" not in site.verify()
    assert "is not signed (manifest.sig is missing)" in site.trusts(site.key)["msg"]
    would = site.build(check=True, signing_key=site.key)
    assert (would["changed"], would["action"], would["version"]) == (True, "sign", version)
    assert would["msg"] == "would sign image demo because the image is not signed"
    assert would["diff"]["before"] == {"version": version, "signature": "the image is not signed"}
    assert would["diff"]["after"]["signature"] == f"the image is signed by key {would['signed_by']}"
    assert "is not signed" in site.trusts(site.key)["msg"], "check mode writes nothing"
    done = site.build(signing_key=site.key)
    assert (done["changed"], done["action"]) == (True, "sign")
    assert site.trusts(site.key)["version"] == version
    rotated = site.build(signing_key=site.other)
    assert rotated["reason"].startswith("the image is signed by another key (sha256:")
    assert site.trusts(site.other)["version"] == version
    assert site.built() == built


def test_an_older_version_is_signed_before_it_becomes_the_latest(site: Site) -> None:
    first = site.build()["version"]
    site.build(serial="2", signing_key=site.key)
    back = site.build(signing_key=site.key)
    assert (back["action"], back["version"]) == ("link", first)
    assert site.trusts(site.key)["version"] == first


def test_tampering_is_refused_by_hosts_and_built_anew_not_signed_anew(site: Site) -> None:
    path = Path(site.build(signing_key=site.key)["path"])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["cmdline"] += " init=/bin/sh"
    (path / "manifest.json").chmod(0o644)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "cmdline" in site.verify()["manifest"], "without trusted keys signatures are not looked at"
    assert "does not fit" in site.trusts(site.key)["msg"]
    again = site.build(signing_key=site.key)
    assert again["action"] == "build"
    assert again["reason"].startswith("the published image is damaged: signature ")
    assert "init=/bin/sh" not in site.trusts(site.key)["manifest"]["cmdline"]


def test_a_manifest_in_the_wrong_place_is_refused_without_any_key(site: Site) -> None:
    path = Path(site.build()["path"])
    shutil.copytree(path, site.store / "other" / path.name)
    message = site.verify(name="other", version=path.name)["msg"]
    assert "describes image 'demo' version" in message


def test_a_key_that_cannot_be_used_is_told_before_the_build(site: Site) -> None:
    Path(site.key).chmod(0o640)
    message = site.build(signing_key=site.key)["msg"]
    assert message.startswith(f"signing key {site.key} has permissions 0640, so others can use it; allowed: 0600")
    assert not site.store.exists()


def test_a_host_without_cryptography_is_told_what_to_install(site: Site) -> None:
    site.build(signing_key=site.key)
    (site.root / "without/cryptography").mkdir(parents=True)
    (site.root / "without/cryptography/__init__.py").write_text("raise ImportError('not here')\n")
    given = {"name": "demo", "store_dir": str(site.store)}
    for extra, failed in (({"trusted_keys": [f"{site.root}/images.pub"]}, True), ({}, False)):
        arguments, environment = modules.command("image_verify", {**given, **extra}, site.root)
        environment["PYTHONPATH"] = f"{site.root}/without:{environment['PYTHONPATH']}"
        done = subprocess.run(arguments, env=environment, check=False, capture_output=True, text=True, timeout=60)
        result = json.loads(done.stdout)
        assert bool(result.get("failed")) == failed, "only signatures need it"
        if failed:
            assert "install Debian's package python3-cryptography" in result["msg"]
            assert len(result["msg"].splitlines()) == 1
