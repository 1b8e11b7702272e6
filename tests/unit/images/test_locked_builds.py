"""Module image_build with layers and with a lock file, as a process: what it starts from and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.images.test_image_build import Builder
from tests.unit.images.test_lock import make_package


class Site(Builder):
    """A builder whose mirror serves one package."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.cache = root / "cache"
        self.lock = root / "site/image.lock"
        (self.cache / "dib").mkdir(parents=True)
        self.serves("1.0")

    def serves(self, version: str) -> None:
        """Let the mirror serve ``version`` from now on."""
        (self.cache / "dib/mirror-serves").write_text(version)

    def locked(self, **changes: Any) -> dict[str, Any]:
        """Build by the lock."""
        return self.run(lock_file=str(self.lock), **changes)

    def published(self) -> dict[str, Any]:
        """Return the latest manifest."""
        manifest: dict[str, Any] = json.loads((self.store / "demo/latest/manifest.json").read_text())
        return manifest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_change_above_starts_from_the_topmost_layer_below_it(site: Site) -> None:
    def started_from(**changes: Any) -> str:
        result = site.run(**{"layers_max_mib": 10, **changes})
        assert result["changed"], result
        site.assert_clean()
        return (site.cache / "dib/started-from").read_text().strip()

    (site.element / "static").mkdir()
    assert started_from() == "nothing"
    (site.element / "finalise.d").mkdir()
    (site.element / "finalise.d/80-clean").write_text("#!/bin/sh\n")
    assert started_from() == "engine"
    (site.element / "install.d/60-engine").write_text("#!/bin/sh\n")
    assert started_from() == "debian"
    (site.element / "install.d/10-demo").write_text("#!/bin/sh\n# changed\n")
    assert started_from() == "nothing"
    build = json.loads((site.store / "demo/latest/build.json").read_text())
    assert [(row["name"], row["reused"], row["seconds"]) for row in build["layers"][:3]] == [
        ("debian", False, 7),
        ("node", False, 0),
        ("engine", False, 7),
    ]
    assert [row["key"] for row in site.published()["layers"]] == [row["key"] for row in build["layers"][:3]]
    assert not [path for path in (site.cache / "layers").iterdir() if ".partial" in path.name]


def test_a_failed_build_leaves_the_layers_that_were_finished(site: Site) -> None:
    assert site.run(fault="late", layers_max_mib=10)["failed"]
    assert len([path for path in (site.cache / "layers").iterdir() if path.name[0] != "."]) == 1
    site.assert_clean()


def test_a_lock_is_made_kept_and_updated(site: Site) -> None:
    made = site.locked(lock_update=True)
    assert made["lock_changes"] == ["new: 1 packages, 0 wheels, 0 models"]
    assert made["version"] == site.latest()
    again = site.locked()
    assert (again["changed"], again["version"]) == (False, made["version"]), "the lock's image is there"
    assert site.published()["created"] == "2023-11-14T22:13:20Z"

    site.serves("2.0")
    updated = site.locked(lock_update=True)
    assert "package old 1.0 -> 2.0" in updated["lock_changes"]
    assert updated["version"] not in (made["version"], None)


def test_other_inputs_than_the_locks_are_refused_by_name(site: Site) -> None:
    site.locked(lock_update=True)
    before = site.tree()
    (site.element / "install.d/10-demo").write_text("#!/bin/sh\n# changed\n")
    refused = site.locked()
    assert "was made from other inputs: element demo (" in refused["msg"]
    assert "update the lock" in refused["msg"]
    assert site.locked(check=True)["failed"]
    assert site.tree() == before


def test_a_locked_package_that_is_gone_is_refused_and_one_that_is_kept_is_used(site: Site) -> None:
    downloads = site.cache / "dib/apt/debian"
    downloads.mkdir(parents=True)
    _file, pin = make_package(downloads, "old", "1.0")
    site.locked(lock_update=True)
    lock = json.loads(site.lock.read_text())
    lock["packages"]["old"].update(sha256=pin["sha256"], size_bytes=pin["size_bytes"])
    site.lock.write_text(json.dumps(lock))
    site.serves("2.0")
    kept = site.locked()
    assert not kept.get("failed"), kept
    assert site.published()["lock"]["packages"]["old"]["version"] == "1.0", "the mirror's 2.0 was not looked at"

    (downloads / "old_1.0_all.deb").unlink()
    site.run(serial="2")
    gone = site.locked(serial="2")
    assert "was made from other inputs: setting serial (new)" in gone["msg"]
    lock["source_date_epoch"] += 1
    site.lock.write_text(json.dumps(lock))
    gone = site.locked()
    assert "neither in" in gone["msg"] and "on a mirror any more: old 1.0" in gone["msg"]
    site.assert_clean()


def test_another_output_than_the_locks_is_not_published(site: Site) -> None:
    downloads = site.cache / "dib/apt/debian"
    downloads.mkdir(parents=True)
    _file, pin = make_package(downloads, "old", "1.0")
    site.locked(lock_update=True)
    lock = json.loads(site.lock.read_text())
    lock["packages"]["old"].update(sha256=pin["sha256"])
    lock["outputs"]["rootfs"] = "sha256:" + "0" * 64
    site.lock.write_text(json.dumps(lock))
    before = site.tree()
    refused = site.locked()
    assert "the build did not come out as lock file" in refused["msg"]
    assert "output rootfs 000000000000 -> " in refused["msg"]
    assert site.tree() == before
    site.assert_clean()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lock_file": "/nowhere/image.lock"}, "lock file /nowhere/image.lock is not there; make it"),
        ({"lock_update": True}, "lock_update is true, but lock_file names no file to update; name one"),
    ],
)
def test_a_lock_that_is_not_there_is_one_line(site: Site, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in site.run(**changes)["msg"]
