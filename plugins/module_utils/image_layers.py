# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Finished layers of images, kept between builds: a build starts from the deepest one whose inputs are its own.

A layer is the tree as it stands when all scripts up to a number in diskimage-builder's phase ``install.d`` have run,
written as a tar archive to ``<cache>/layers/<key>/tree.tar``. The key is a digest over everything that shaped it: the
key of the layer below, and the inputs that belong to this one. What belongs to none of them (runtime, models, settings
of the finished image) is done anew in every build.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import atomic
from .digests import FileDigest, digest_file, digest_text, digest_tree, is_noise

#: Name of each layer and the last number in ``install.d`` that is part of it (image-elements/README.rst).
LAYERS = (("debian", 49), ("node", 59), ("engine", 69))
LOWEST = LAYERS[0][0]
#: What is above the layers that are kept.
TOP = "runtime"
TREE, ABOUT = "tree.tar", "layer.json"
KEY_LENGTH = 12

#: Phases of diskimage-builder that run after the last layer is written.
_LATE = frozenset({"post-install.d", "post-root.d", "pre-finalise.d", "finalise.d", "cleanup.d", "block-device.d"})
#: What shapes the tree from the beginning, or other elements: it counts for the lowest layer.
_EARLY = frozenset({"root.d", "pre-install.d", "extra-data.d", "environment.d", "bin", "element-deps"})
_EARLY_FILE = re.compile(r"(package-installs|pkg-map|svc-map|element-provides|block-device).*")
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True)
class Layer:
    """One layer of a build: ``last`` is the number in install.d that ends it."""

    name: str
    key: str
    last: int


@dataclass(frozen=True)
class Stored:
    """A layer in the cache."""

    key: str
    path: Path
    size_bytes: int
    used: float


def layer_of(script: str) -> str:
    """Return the layer of a script in install.d by its number; one without a number runs first."""
    digits = re.match(r"\d+", script)
    number = int(digits[0]) if digits else 0
    return next((name for name, last in LAYERS if number <= last), TOP)


def own_layer(element: Path) -> str:
    """Return the lowest layer in which a script of ``element`` runs: its other files (static, lib) are used there."""
    if (element / "root.d").is_dir() or (element / "pre-install.d").is_dir():
        return LOWEST
    scripts = [layer_of(path.name) for path in _listed(element / "install.d")]
    order = [name for name, _last in LAYERS] + [TOP]
    return min(scripts, key=order.index, default=TOP)


def parts(element: Path) -> Iterator[tuple[str, Path]]:
    """Yield every top-level part of ``element`` (scripts of install.d one by one) with the layer it belongs to."""
    own = own_layer(element)
    for path in _listed(element):
        if path.name == "install.d":
            for script in _listed(path):
                # A directory in there is an install type, whose scripts dib moves up: any of them may run early.
                yield LOWEST if script.is_dir() else layer_of(script.name), script
        elif path.name in _LATE:
            yield TOP, path
        elif path.name in _EARLY or _EARLY_FILE.fullmatch(path.name):
            yield LOWEST, path
        else:
            yield own, path


def _listed(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if not is_noise(path.name)) if directory.is_dir() else []


def keys(
    inputs: Mapping[str, str], elements: Mapping[str, Path], file_digest: FileDigest = digest_file
) -> tuple[Layer, ...]:
    """Return the layers of a build with these ``inputs`` (`image_inputs.collect`) and element directories.

    An input whose layer is not known counts for the lowest one, so that a layer is rather built twice than wrong.
    Raises OSError.
    """
    shares: dict[str, dict[str, str]] = {name: {} for name, _last in LAYERS}
    shares[TOP] = {}
    words: dict[str, list[bytes]] = {name: [] for name in shares}
    for name, directory in elements.items():
        for layer, path in parts(directory):
            program = os.access(path, os.X_OK) and path.is_file()
            label = f"{name}/{path.relative_to(directory)}{'*' if program else ''}"
            shares[layer][label] = digest_tree(path, file_digest)
            if path.name != "environment.d":
                files = path.rglob("*") if path.is_dir() else [path]
                words[layer].extend(file.read_bytes() for file in files if file.is_file())
    for label, value in inputs.items():
        where = _layer_of_input(label, words)
        if where:
            shares[where][label] = value
    made = []
    parent = ""
    for name, last in LAYERS:
        parent = digest_text(json.dumps([parent, shares[name]], sort_keys=True))
        made.append(Layer(name, parent.removeprefix("sha256:")[:KEY_LENGTH], last))
    return tuple(made)


def _layer_of_input(label: str, words: Mapping[str, list[bytes]]) -> str | None:
    """Return the layer that an input belongs to, or None when the elements' parts stand for it."""
    kind, _space, name = label.partition(" ")
    if kind == "element":
        return None
    if kind == "elements":
        # Those found in a path are counted part by part; of dib's own, the names are what is known.
        return LOWEST
    if kind == "model":
        return TOP
    if kind == "wheelhouse":
        return "engine"
    if kind in ("environment", "content"):
        # A variable counts from the lowest layer on that reads it.
        pattern = re.compile(rb"\b" + re.escape(name.encode()) + rb"\b")
        return next((layer for layer, texts in words.items() if any(pattern.search(text) for text in texts)), LOWEST)
    return LOWEST


def deepest(cache: Path, layers: tuple[Layer, ...]) -> Layer | None:
    """Return the topmost of ``layers`` that is in the cache, or None."""
    return next((layer for layer in reversed(layers) if tree_path(cache, layer.key).is_file()), None)


def tree_path(cache: Path, key: str) -> Path:
    """Return where the archive of the layer ``key`` is, whether it is there or not."""
    return cache / "layers" / key / TREE


@contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Keep every layer of the cache from being collected while the block runs. Raises OSError."""
    directory = cache / "layers"
    atomic.make_directory(directory)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def keep(cache: Path, layer: Layer, archive: Path, about: Mapping[str, Any]) -> None:
    """Move ``archive``, the finished tree of ``layer``, into the cache. One that is there stays. Raises OSError.

    The archive is made durable before its directory gets its name, so a layer in the cache is a whole one.
    """
    target = cache / "layers" / layer.key
    if (target / TREE).is_file():
        return
    partial = target.with_name(f".{layer.key}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        atomic.make_directory(partial)
        shutil.move(archive, partial / TREE)
        description = {"name": layer.name, "key": layer.key, **about}
        (partial / ABOUT).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        atomic.fsync_tree(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        atomic.fsync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def touch(cache: Path, key: str) -> None:
    """Note that the layer was used now: what was not used for longest is collected first. Raises OSError."""
    os.utime(cache / "layers" / key)


def stored(cache: Path) -> list[Stored]:
    """Return the layers in the cache, least recently used first."""
    found = []
    for path in _listed(cache / "layers"):
        if _KEY.fullmatch(path.name) and (path / TREE).is_file():
            found.append(Stored(path.name, path, (path / TREE).stat().st_size, path.stat().st_mtime))
    return sorted(found, key=lambda layer: (layer.used, layer.key))


def collect(cache: Path, max_mib: int) -> list[str]:
    """Remove layers, least recently used first, until they take at most ``max_mib``. Returns the removed keys.

    Leftovers of killed builds go too. Does nothing while another build uses the cache; that one collects. Raises
    OSError.
    """
    directory = cache / "layers"
    if not directory.is_dir():
        return []
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        for path in directory.glob(".*.partial-*"):
            shutil.rmtree(path)
        layers = stored(cache)
        total = sum(layer.size_bytes for layer in layers)
        removed = []
        for layer in layers:
            if total <= max_mib << 20:
                break
            # Renamed first: a removal that is cut short leaves no layer that looks whole.
            gone = directory / f".{layer.key}.partial-{os.getpid()}"
            layer.path.rename(gone)
            shutil.rmtree(gone)
            total -= layer.size_bytes
            removed.append(layer.key)
        return removed
    finally:
        os.close(descriptor)


def report(
    written: Path, layers: tuple[Layer, ...], start: Layer | None, cache: Path, started: float
) -> list[dict[str, Any]]:
    """Return what is known of each layer of a build: name, key, reused, seconds, size_bytes.

    ``written`` is the directory that the build wrote layers to, ``start`` the layer it started from, ``started`` when
    (seconds since 1970). The part above the layers is the last entry, with an empty key.
    """
    rows: list[dict[str, Any]] = []
    below = [layer.name for layer in layers]
    reused = below[: below.index(start.name) + 1] if start else []
    spent = 0
    for layer in layers:
        row: dict[str, Any] = {"name": layer.name, "key": layer.key, "reused": layer.name in reused}
        row.update(seconds=0, size_bytes=0)
        if row["reused"]:
            path = tree_path(cache, layer.key)
            row["size_bytes"] = path.stat().st_size if path.is_file() else 0
        else:
            row.update(_written(written / f"{layer.name}.json"))
        spent += row["seconds"]
        rows.append(row)
    above = max(0, round(time.time() - started) - spent)
    rows.append({"name": TOP, "key": "", "reused": False, "seconds": above, "size_bytes": 0})
    return rows


def _written(path: Path) -> dict[str, int]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"seconds": int(about["seconds"]), "size_bytes": int(about["size_bytes"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # the build ended before, or its elements write no layers
