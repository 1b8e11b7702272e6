"""Layers: which change rebuilds what, which layer a build starts from, and how the cache stays small and whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import image_layers as layers

INPUTS = {
    "schema": "1",
    "elements": "base engine top",
    "setting release": "bookworm",
    "environment DIB_ENGINE": "fast",
    "environment DIB_UNKNOWN": "x",
    "content DIB_ENGINE": "sha256:1",
    "wheelhouse": "sha256:2",
    "model one": "sha256:3",
    "tool mmdebstrap": "1.3.5",
}


@pytest.fixture
def elements(tmp_path: Path) -> dict[str, Path]:
    """Three elements: one for the lowest layer, one for the engine's, one above all layers."""
    files = {
        "base/root.d/08-bootstrap": "#!/bin/sh\n",
        "base/install.d/10-static": "#!/bin/sh\n",
        "base/install.d/70-lean": "#!/bin/sh\n",
        "base/static/etc/hosts": "127.0.0.1\n",
        "base/finalise.d/80-clean": "#!/bin/sh\n",
        "engine/install.d/60-engine": "#!/bin/sh\necho $DIB_ENGINE\n",
        "engine/package-installs.yaml": "libnuma1:\n",
        "engine/environment.d/10-engine.bash": "export DIB_ENGINE=${DIB_ENGINE:-slow}\n",
        "engine/requirements/cpu.txt": "vllm==1\n",
        "engine/README.rst": "words\n",
        "top/install.d/80-top": "#!/bin/sh\n",
        "top/static/usr/lib/healthy.py": "print()\n",
        "top/lib/warm.py": "print()\n",
    }
    for name, text in files.items():
        path = tmp_path / "elements" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {name: tmp_path / "elements" / name for name in ("base", "engine", "top")}


def changed(before: tuple[layers.Layer, ...], after: tuple[layers.Layer, ...]) -> list[str]:
    return [one.name for one, two in zip(before, after, strict=True) if one.key != two.key]


@pytest.mark.parametrize(
    ("path", "rebuilt"),
    [
        ("base/install.d/10-static", ["debian", "node", "engine"]),
        ("base/static/etc/hosts", ["debian", "node", "engine"]),
        ("base/install.d/70-lean", []),
        ("base/finalise.d/80-clean", []),
        ("engine/install.d/60-engine", ["engine"]),
        ("engine/requirements/cpu.txt", ["engine"]),
        ("engine/package-installs.yaml", ["debian", "node", "engine"]),
        ("engine/environment.d/10-engine.bash", ["debian", "node", "engine"]),
        ("engine/README.rst", []),
        ("top/install.d/80-top", []),
        ("top/static/usr/lib/healthy.py", []),
        ("top/lib/warm.py", []),
    ],
)
def test_a_changed_file_rebuilds_its_layer_and_those_above(
    elements: dict[str, Path], path: str, rebuilt: list[str]
) -> None:
    before = layers.keys(INPUTS, elements)
    with (elements["base"].parent / path).open("a") as stream:
        stream.write("# changed\n")
    assert changed(before, layers.keys(INPUTS, elements)) == rebuilt


@pytest.mark.parametrize(
    ("label", "rebuilt"),
    [
        ("setting release", ["debian", "node", "engine"]),
        ("tool mmdebstrap", ["debian", "node", "engine"]),
        ("elements", ["debian", "node", "engine"]),
        ("lock packages", ["debian", "node", "engine"]),
        ("environment DIB_UNKNOWN", ["debian", "node", "engine"]),
        ("environment DIB_ENGINE", ["engine"]),
        ("content DIB_ENGINE", ["engine"]),
        ("wheelhouse", ["engine"]),
        ("model one", []),
    ],
)
def test_a_changed_input_rebuilds_what_it_belongs_to(elements: dict[str, Path], label: str, rebuilt: list[str]) -> None:
    before = layers.keys(INPUTS, elements)
    assert changed(before, layers.keys({**INPUTS, label: "other"}, elements)) == rebuilt


def test_an_element_that_only_comes_on_top_leaves_the_layers(elements: dict[str, Path], tmp_path: Path) -> None:
    before = layers.keys(INPUTS, elements)
    (tmp_path / "extra/static/etc").mkdir(parents=True)
    (tmp_path / "extra/static/etc/motd").write_text("hello\n")
    assert changed(before, layers.keys(INPUTS, {**elements, "extra": tmp_path / "extra"})) == []


def test_a_program_and_a_file_of_the_same_content_are_not_the_same(elements: dict[str, Path]) -> None:
    before = layers.keys(INPUTS, elements)
    (elements["engine"] / "install.d/60-engine").chmod(0o755)
    assert changed(before, layers.keys(INPUTS, elements)) == ["engine"]


def put(cache: Path, layer: layers.Layer, size: int) -> None:
    archive = cache / "written.tar"
    archive.write_bytes(b"x" * size)
    layers.keep(cache, layer, archive, {"seconds": 7})
    assert not archive.exists()


def test_a_build_starts_from_the_topmost_layer_that_is_whole(elements: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    mine = layers.keys(INPUTS, elements)
    cache.mkdir()
    assert layers.deepest(cache, mine) is None
    put(cache, mine[0], 10)
    put(cache, mine[2], 20)
    assert layers.deepest(cache, mine) == mine[2]
    other = layers.keys({**INPUTS, "wheelhouse": "other"}, elements)
    assert layers.deepest(cache, other) == mine[0]
    # What a killed process left has another name, and does not count.
    (cache / "layers" / mine[2].key).rename(cache / "layers" / f".{mine[2].key}.partial-1")
    assert layers.deepest(cache, mine) == mine[0]
    rows = layers.report(cache, mine, mine[0], cache, 0)
    assert [(row["name"], row["reused"]) for row in rows] == [
        ("debian", True),
        ("node", False),
        ("engine", False),
        ("runtime", False),
    ]
    assert rows[0]["size_bytes"] == 10


def test_the_least_recently_used_layers_go_first_and_never_those_of_a_running_build(
    elements: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert layers.collect(cache, 1) == []
    mine = layers.keys(INPUTS, elements)
    cache.mkdir()
    for layer in mine:
        put(cache, layer, 1 << 20)
    for age, layer in ((10, mine[0]), (30, mine[1]), (20, mine[2])):
        path = cache / "layers" / layer.key
        os.utime(path, (path.stat().st_mtime - age, path.stat().st_mtime - age))
    (cache / "layers/.0123456789ab.partial-99").mkdir()
    with layers.in_use(cache):
        assert layers.collect(cache, 1) == []
    assert layers.collect(cache, 2) == [mine[1].key]
    assert not (cache / "layers/.0123456789ab.partial-99").exists()
    layers.touch(cache, mine[2].key)
    assert layers.collect(cache, 1) == [mine[0].key]
    assert [layer.key for layer in layers.stored(cache)] == [mine[2].key]
    assert layers.collect(cache, 0) == [mine[2].key]
