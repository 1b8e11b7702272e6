# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Manifest files of the command line, and the directory that keeps those which were applied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import places
from .errors import REFUSED, USAGE, CtlError


@dataclass(frozen=True)
class Manifest:
    """One Runtime: its name, its own text, and the file that it is from."""

    name: str
    text: str
    path: Path


def read(files: list[Path]) -> list[Manifest]:
    """Return the Runtimes of the files, validated. Raises CtlError with one line for each wrong field."""
    found: list[Manifest] = []
    for path in files:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml") and each.is_file())
            if not inside:
                raise CtlError(f"{path} holds no manifest; expected files that end in .yaml or .yml", USAGE)
            found += read(inside)
            continue
        found += _read_file(path)
    names: dict[str, Path] = {}
    for each in found:
        if each.name in names:
            message = f"{each.path}: {each.name!r} is also the name in {names[each.name]}; names are unique"
            raise CtlError(message, REFUSED)
        names[each.name] = each.path
    return found


def _read_file(path: Path) -> list[Manifest]:
    collection = _module_utils()
    try:
        runtimes: list[dict[str, Any]] = collection.read_runtimes([path])
    except collection.ManifestError as error:
        raise CtlError(str(error), REFUSED) from None
    for each in runtimes:
        if each["spec"]["placement"]["target"] == "kubernetes":
            raise CtlError(
                f"{path}: {each['metadata']['name']} has spec.placement.target kubernetes, and vllmdctl starts virtual "
                "machines; write its manifests with playbooks/manifests.yml and give them to kubectl apply",
                REFUSED,
            )
    text = path.read_text(encoding="utf-8")
    parts = _documents(text)
    if len(runtimes) == 1:
        parts = [text]
    return [
        Manifest(each["metadata"]["name"], part, path.absolute()) for each, part in zip(runtimes, parts, strict=True)
    ]


def _documents(text: str) -> list[str]:
    """Return the text of each YAML document that is not empty, comments in it included."""
    import yaml

    begun = [event.start_mark for event in yaml.parse(text) if isinstance(event, yaml.DocumentStartEvent)]
    starts = [mark.index for mark in begun if mark is not None]
    pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [piece for piece in pieces if yaml.safe_load(piece) is not None]


def _module_utils() -> Any:
    """Return the collection's own reader, so that a manifest is judged here as on the hosts."""
    places.use_collection()
    from ansible_collections.vllmd.platform.plugins.module_utils import manifests

    return manifests


def union(sources: dict[str, str], new: list[Manifest]) -> list[str]:
    """Return the files of what is applied already, but for the runtimes that ``new`` replaces, and those of ``new``."""
    replaced = {each.name for each in new}
    kept = [path for name, path in sorted(sources.items()) if name not in replaced]
    return list(dict.fromkeys([*kept, *(str(each.path) for each in new)]))


def check_together(files: list[str]) -> list[str]:
    """Return the profiles of the platform's own images that these manifests need; ``vllmd-cpu`` is of profile cpu.

    Raises CtlError when they can't stand beside each other, such as two with one name.
    """
    collection = _module_utils()
    try:
        runtimes = collection.read_runtimes([Path(each) for each in files])
    except collection.ManifestError as error:
        raise CtlError(str(error), REFUSED) from None
    machines = [each for each in runtimes if each["spec"]["placement"]["target"] == "hypervisor"]
    images = {each["spec"]["image"]["name"] for each in machines}
    return sorted(image.removeprefix("vllmd-") for image in images if image in ("vllmd-cpu", "vllmd-cuda"))


def place(new: list[Manifest], directory: Path, sources: dict[str, str]) -> list[Manifest]:
    """Keep each manifest in the directory, unless the inventory reads its file where it is. Returns the new ones there.

    Raises CtlError; a file is written whole or not at all.
    """
    here = {str(Path(path).resolve()) for path in sources.values()}
    placed = []
    for each in new:
        if str(each.path.resolve()) in here and each.path.resolve().parent != directory.resolve():
            continue
        target = directory / f"{each.name}.yaml"
        if target.resolve() == each.path.resolve():
            continue
        if not target.exists():
            placed.append(each)
        try:
            directory.mkdir(exist_ok=True)
            places.write_file(target, each.text)
        except OSError as error:
            raise CtlError(f"cannot keep {target}: {error.strerror}; make room there, or correct its owner") from None
    return placed


def check_seen(inventory: Path, placed: list[Manifest], sources: dict[str, str]) -> None:
    """Take the manifests away again and raise CtlError when the inventory does not read the directory they are in."""
    unseen = [each for each in placed if each.name not in sources]
    if not unseen:
        return
    directory = places.manifests_directory(inventory)
    for each in unseen:
        (directory / f"{each.name}.yaml").unlink(missing_ok=True)
    raise CtlError(
        f"inventory {inventory} does not read {directory}, so {unseen[0].name} would be forgotten; add that directory "
        "to vllmd_runtime_manifests in its group variables",
        REFUSED,
    )
