# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a build would do, for a person, before it is started: layer by layer, why, how much and where.

`of_build` reads store and cache, the rest are pure functions over plain data. Sizes in bytes, times in seconds; both
are what builds before had, so they are said as estimates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import build_layers, image_inputs, image_layers, image_references, image_report, images
from .digests import FileDigest
from .image_plan import Plan, Request
from .quantities import human

#: What is above the layers that are kept; every build makes it anew.
TOP = image_layers.TOP


def layers(
    now: Sequence[tuple[str, str]],
    before: Mapping[str, str],
    cached: Collection[str],
    told: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return for each layer what a build would do: ``name``, ``action`` (``reuse``, ``build``), ``reason``, estimates.

    ``now`` has name and key of the layers, lowest first; ``before`` the keys of the latest image by name; ``cached``
    the keys that are in the cache; ``told`` what the build before, or the cache, says of a layer: ``seconds``,
    ``size_bytes``.
    """
    start = max((index for index, (_name, key) in enumerate(now) if key in cached), default=-1)
    rows = []
    below = ""
    for index, (name, key) in enumerate(now):
        same = before.get(name) == key
        if index <= start:
            action, reason = "reuse", "unchanged" if same else "was built before with these inputs"
        else:
            action = "build"
            reason = _why(name in before, same, below)
            below = below or name
        about = told.get(name, {})
        rows.append({"name": name, "action": action, "reason": reason, **_estimates(about)})
    rows.append({"name": TOP, "action": "build", "reason": "made in every build", **_estimates(told.get(TOP, {}))})
    return rows


def _why(known: bool, same: bool, below: str) -> str:
    if same:
        return "unchanged, but not in the cache"
    if below:
        return f"stands on {below}"
    return "its inputs changed" if known else "was never built"


def _estimates(about: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(about[key]) for key in ("seconds", "size_bytes") if isinstance(about.get(key), (int, float))}


def duration(seconds: float) -> str:
    """Return a time for a person: ``45 s``, ``3 min 20 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def lines(
    what: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    target: Path,
    log: Path,
    files: Mapping[str, Mapping[str, Any]],
    goes: Sequence[str] = (),
) -> list[str]:
    """Return the plan, a line for each layer and one each for size, time, place and what goes.

    ``what`` says image, version and reason; ``rows`` is what `layers` returns; ``files`` the files of the latest image
    by its manifest; ``goes`` the versions that the build would remove.
    """
    said = [what]
    for row in rows:
        verb = "reused" if row["action"] == "reuse" else "built"
        notes = []
        if row["action"] == "build" and row.get("seconds"):
            notes.append(f"about {duration(row['seconds'])}")
        if row.get("size_bytes"):
            notes.append(human(row["size_bytes"]))
        more = f" ({', '.join(notes)})" if notes else ""
        said.append(f"  layer {row['name']:<8} {verb:<7} {row['reason']}{more}")
    spent = sum(row.get("seconds", 0) for row in rows if row["action"] == "build")
    if spent:
        said.append(f"  time   about {duration(spent)}, by the builds before")
    if files:
        total = sum(int(entry["size_bytes"]) for entry in files.values())
        said.append(f"  size   about {human(total)}, as the latest image has")
    said.append(f"  to     {target}")
    said.append(f"  log    {log}")
    said.extend(f"  goes   {version}" for version in goes)
    return said


def of_build(request: Request, todo: Plan, file_digest: FileDigest) -> list[str]:
    """Return the plan of the build ``todo``. Raises OSError, ImageError."""
    before = todo.before or {}
    elements = image_inputs.resolve_elements(request.elements, request.elements_paths)
    now = [(layer.name, layer.key) for layer in image_layers.keys(todo.inputs, elements, file_digest)]
    fresh = request.lock_update or request.layers_max_mib <= 0
    cached = set() if fresh else {layer.key for layer in image_layers.stored(request.cache_dir)}
    rows = layers(now, _keys(before), cached, _told(request, before, now))
    existing = [version for version in images.versions(request.store_dir, request.name) if version != todo.version]
    needed = image_references.needed(request.store_dir, request.pins)
    # The version that is the latest now will not be, so being it protects nothing.
    reasons = {version: why for (name, version), why in needed.items() if name == request.name and why != "the latest"}
    beyond = existing[: max(0, len(existing) - max(0, request.keep - 1))]
    return lines(
        f"image {request.name} {todo.version} would be built: {todo.reason}",
        rows,
        target=request.store_dir / request.name / todo.version,
        log=request.log_path,
        files=before.get("files", {}),
        goes=[f"{request.name}/{version}" for version in beyond if version not in reasons],
    )


def _keys(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(layer["name"]): str(layer["key"]) for layer in manifest.get("layers", []) if {"name", "key"} <= {*layer}
    }


def _told(request: Request, before: Mapping[str, Any], now: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return what is known of each layer: from the latest image's build, and better from the layer in the cache."""
    told: dict[str, dict[str, Any]] = {}
    if before:
        directory = request.store_dir / request.name / before["version"]
        for row in image_report.read_object(directory / build_layers.BUILD_NAME).get("layers", []):
            told[str(row.get("name"))] = {key: value for key, value in row.items() if value and not row.get("reused")}
    sizes = {layer.key: layer.size_bytes for layer in image_layers.stored(request.cache_dir)}
    for keys in (_keys(before), dict(now)):
        for name, key in keys.items():
            if key in sizes:
                about = image_report.read_object(request.cache_dir / "layers" / key / image_layers.ABOUT)
                told[name] = {**told.get(name, {}), **about, "size_bytes": sizes[key]}
    return told
