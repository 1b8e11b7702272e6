"""The image store: versions that appear whole, manifests that fit their schema, and one-line refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import image_manifest, images, locks

SCHEMA = Path(image_manifest.__file__).parent / "schemas/image-v1.schema.json"
FACTS: dict[str, Any] = {
    "schema_version": 1,
    "profile": "cpu",
    "debian": {"release": "bookworm", "architecture": "amd64"},
    "elements": ["vllmd-debian"],
    "packages": {"systemd": "252"},
    "wheels": {},
    "models": [{"name": "m", "digest": "sha256:" + "0" * 64}],
    "cmdline": "root=/dev/vda ro",
    "kernel_release": "6.1.0",
}


def publish(store: Path, inputs: dict[str, str], content: str = "x") -> Path:
    """Publish an image made from ``inputs`` and return its directory."""
    partial = store / "demo/.000000000000.partial-1"
    partial.mkdir(parents=True)
    for name in image_manifest.FILE_NAMES:
        (partial / name).write_text(content)
    manifest = image_manifest.compose(partial, "demo", inputs, FACTS)
    return images.publish(partial, store, manifest)


def test_a_published_manifest_fits_its_schema(tmp_path: Path) -> None:
    manifest = image_manifest.load(publish(tmp_path, {"a": "1"}))
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(manifest)
    assert set(schema["required"]) == set(manifest), "the schema knows every field"


def test_latest_is_the_newest_and_versions_are_oldest_first(tmp_path: Path) -> None:
    first, second = publish(tmp_path, {"a": "1"}), publish(tmp_path, {"a": "2"})
    assert images.versions(tmp_path, "demo") == [first.name, second.name]
    assert images.image_path(tmp_path, "demo") == second
    assert images.image_path(tmp_path, "demo", first.name) == first
    assert images.names(tmp_path) == ["demo"]
    assert images.removable(tmp_path, "demo", keep=1) == [first.name]
    assert images.removable(tmp_path, "demo", keep=2) == []
    assert images.removable(tmp_path, "demo", 1, [first / "kernel"]) == []


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("other", "latest", "no image other in {store}; build it (role runtime_assembler) or correct the name"),
        ("demo", "ffffffffffff", "no version ffffffffffff of image demo in {store}; there is: {known}"),
        ("demo", "../..", "image version '../..' is not possible; allowed: latest, or 12 hexadecimal digits"),
        ("de/mo", "latest", "image name 'de/mo' is not possible"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(tmp_path: Path, name: str, version: str, sentence: str) -> None:
    known = publish(tmp_path, {"a": "1"}).name
    with pytest.raises(image_manifest.ImageError) as caught:
        images.image_path(tmp_path, name, version)
    assert str(caught.value).startswith(sentence.format(store=tmp_path, known=known))


def damage(path: Path, text: str | None) -> None:
    path.chmod(0o644)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        (
            "kernel",
            "y",
            "kernel has sha256 a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa, expected 2d711",
        ),
        (
            "system.raw",
            "xx",
            "system.raw has 2 bytes, expected 1 by its manifest; it changed after it was published: remove",
        ),
        ("initrd", None, "initrd cannot be read (No such file or directory); it changed after"),
        ("manifest.json", None, "holds no manifest.json, so it is no published image; build the image"),
        ("manifest.json", "{", "is no JSON ("),
        ("manifest.json", "[]", "manifest.json: expected one JSON object; remove the version"),
        ("manifest.json", '{"schema_version": 2}', "field schema_version: found 2; allowed: 1"),
        ("manifest.json", '{"schema_version": 1}', "field name: missing or no str"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, file: str, text: str | None, sentence: str) -> None:
    path = publish(tmp_path, {"a": "1"})
    damage(path / file, text)
    with pytest.raises(image_manifest.ImageError) as caught:
        image_manifest.check_digests(path, image_manifest.load(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = publish(tmp_path, {"a": "1"})
    manifest = image_manifest.load(path)
    manifest["files"]["../../passwd"] = {"sha256": "", "size_bytes": 0}
    with pytest.raises(image_manifest.ImageError, match="is no plain file name"):
        image_manifest.check_sizes(path, manifest)


@pytest.mark.parametrize("fact", [name for name in FACTS if name != "schema_version"])
def test_a_build_without_a_fact_is_refused(tmp_path: Path, fact: str) -> None:
    for name in image_manifest.FILE_NAMES:
        (tmp_path / name).write_text("x")
    facts = {name: value for name, value in FACTS.items() if name != fact}
    with pytest.raises(image_manifest.ImageError, match=rf"facts\.json lacks {fact};"):
        image_manifest.compose(tmp_path, "demo", {}, facts)
    (tmp_path / "kernel").write_text("")
    with pytest.raises(image_manifest.ImageError, match="the build left no kernel"):
        image_manifest.compose(tmp_path, "demo", {}, FACTS)


def test_republishing_replaces_a_damaged_version(tmp_path: Path) -> None:
    path = publish(tmp_path, {"a": "1"})
    damage(path / "kernel", "damaged")
    assert publish(tmp_path, {"a": "1"}) == path
    image_manifest.check_digests(path, image_manifest.load(path))
    assert images.leftovers(tmp_path, "demo") == []


def test_cleaning_puts_back_a_version_that_was_being_replaced(tmp_path: Path) -> None:
    path = publish(tmp_path, {"a": "1"})
    path.rename(path.with_name(f".{path.name}.replaced-7"))
    (tmp_path / "demo/.0123456789ab.partial-7").mkdir()
    (tmp_path / "demo/.latest.partial-7").symlink_to("x")
    assert len(images.clean(tmp_path, "demo")) == 3
    image_manifest.check_digests(path, image_manifest.load(path))
    assert images.leftovers(tmp_path, "demo") == []


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    first, second = publish(tmp_path, {"a": "1"}), publish(tmp_path, {"a": "2"})
    images.remove_version(tmp_path, "demo", second.name)
    assert images.latest_version(tmp_path, "demo") is None
    assert images.versions(tmp_path, "demo") == [first.name]
    images.remove_image(tmp_path, "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_names_its_holder_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new/.demo.lock"
    with (
        locks.exclusive(path, "image demo"),
        pytest.raises(locks.LockedError, match=r"image demo is in use by process \d+ of .+@.+, for \d+\.\ds"),
        locks.exclusive(path, "image demo", wait_seconds=0.3),
    ):
        pass
    with locks.exclusive(path, "image demo"):
        pass
