"""What counts as an input of an image, and how a changed one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import digests, image_inputs


def element(root: Path, name: str, needs: str = "") -> Path:
    directory = root / name
    (directory / "install.d").mkdir(parents=True)
    (directory / "install.d/10-x").write_text("#!/bin/sh\n")
    (directory / "element-deps").write_text(needs)
    return directory


def test_a_trees_digest_is_its_names_kinds_execute_bits_and_contents(tmp_path: Path) -> None:
    tree = element(tmp_path, "a")
    seen = [digests.digest_tree(tree)]

    def changed() -> bool:
        seen.append(digests.digest_tree(tree))
        return seen[-1] not in seen[:-1]

    script = tree / "install.d/10-x"
    script.chmod(0o755)
    assert changed()
    script.write_text("#!/bin/sh\ntrue\n")
    assert changed()
    script.rename(tree / "install.d/20-x")
    assert changed()
    (tree / "link").symlink_to("install.d")
    assert changed()
    (tree / "empty").mkdir()
    assert changed()
    (tree / "README.rst").write_text("words")
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/x.cpython-311.pyc").write_text("")
    (tree / "install.d/20-x").chmod(0o700)
    assert not changed(), "documentation, caches and the umask do not count"


def test_elements_bring_those_they_need(tmp_path: Path) -> None:
    element(tmp_path, "a", "b\n# not: d\npackage-installs\n")
    element(tmp_path, "b", "c a\n")
    element(tmp_path, "c")
    element(tmp_path, "d")
    assert list(image_inputs.resolve_elements(["a"], [tmp_path])) == ["a", "b", "c"]


def test_the_first_path_wins(tmp_path: Path) -> None:
    for side in ("one", "two"):
        element(tmp_path / side, "a")
    found = image_inputs.resolve_elements(["a"], [tmp_path / "two", tmp_path / "one"])
    assert found == {"a": tmp_path / "two/a"}


def test_changes_are_named() -> None:
    before, after = {"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}
    assert image_inputs.changes(before, after) == ["b", "c (gone)", "d (new)"]
    assert image_inputs.changes(None, after) == []


def test_a_version_is_the_beginning_of_the_inputs_digest() -> None:
    digest = image_inputs.inputs_digest({"b": "2", "a": "1"})
    assert digest == image_inputs.inputs_digest({"a": "1", "b": "2"})
    assert image_inputs.version_of(digest) == digest.removeprefix("sha256:")[:12]


def test_missing_inputs_are_refused_or_marked(tmp_path: Path) -> None:
    def collect(missing_ok: bool) -> dict[str, str]:
        return image_inputs.collect(
            settings={},
            elements=[],
            elements_paths=[],
            environment={},
            models={"m": tmp_path / "gone"},
            wheelhouse=None,
            tools={},
            missing_ok=missing_ok,
        )

    with pytest.raises(image_inputs.InputError, match=r"model m: .*gone does not exist; make it first"):
        collect(missing_ok=False)
    assert collect(missing_ok=True)["model m"] == "(missing)"


def test_a_variable_that_names_files_counts_by_what_is_in_them(tmp_path: Path) -> None:
    def inputs(value: str) -> dict[str, str]:
        return image_inputs.collect(
            settings={},
            elements=[],
            elements_paths=[],
            environment={"DIB_PROGRAMS": value},
            models={},
            wheelhouse=None,
            tools={},
        )

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kubelet").write_text("1.33.1")
    here = inputs(str(tmp_path / "here"))
    assert here == inputs(str(tmp_path / "there"))
    assert "environment DIB_PROGRAMS" not in here
    (tmp_path / "there/kubelet").write_text("1.33.2")
    assert inputs(str(tmp_path / "there")) != here
    assert inputs("/dev/vda")["environment DIB_PROGRAMS"] == "/dev/vda"


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return f"sha256:{len(read)}"

    monkeypatch.setattr(digests, "digest_file", counting)
    data, store = tmp_path / "wheel", tmp_path / "cache/digests.json"
    data.write_text("1")
    for _time in range(3):
        cache = digests.DigestCache(store)
        assert cache.digest(data) == "sha256:1"
        cache.save()
    assert len(read) == 1
    data.write_text("2")
    cache = digests.DigestCache(store)
    assert cache.digest(data) == "sha256:2"
    cache.save()
    data.unlink()
    other = tmp_path / "other"
    other.write_text("")
    cache = digests.DigestCache(store)
    cache.digest(other)
    cache.save()
    assert str(data) not in store.read_text(), "files that are gone are forgotten"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/x": 1}'])
def test_a_broken_cache_is_an_empty_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / "digests.json").write_text(text)
    (tmp_path / "x").write_text("")
    assert digests.DigestCache(tmp_path / "digests.json").digest(tmp_path / "x").startswith("sha256:e3b0c442")
