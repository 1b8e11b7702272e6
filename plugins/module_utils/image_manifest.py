# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The manifest of an image: what is in it and what it was made from (``schemas/image-v1.schema.json``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .digests import FileDigest, digest_file
from .image_inputs import inputs_digest, version_of

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
#: The files of every image; each has a digest in the manifest.
FILE_NAMES = ("system.raw", "kernel", "initrd")

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FIELDS: dict[str, type] = {
    "schema_version": int,
    "name": str,
    "version": str,
    "profile": str,
    "debian": dict,
    "created": str,
    "inputs_digest": str,
    "inputs": dict,
    "elements": list,
    "files": dict,
    "packages": dict,
    "wheels": dict,
    "models": list,
    "cmdline": str,
    "kernel_release": str,
}
#: What the build itself reports in facts.json (image-elements/README.md) and the manifest takes over.
_FACTS = ("profile", "debian", "elements", "packages", "wheels", "models", "cmdline", "kernel_release")
#: What only some builds report.
_OPTIONAL: dict[str, type] = {
    "build": dict,
    "kubernetes": dict,
    "layers": list,
    "lock": dict,
    "nvidia": dict,
    "rootfs": dict,
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageError(RuntimeError):
    """An image, or the store, is not as it should be; the message is one line: what, where, why, what to do."""


def check_name(name: str) -> None:
    """Raise ImageError unless ``name`` can name an image: it becomes a directory."""
    if not _NAME.fullmatch(name):
        raise ImageError(
            f"image name {name!r} is not possible; allowed: 1 to 63 of a-z, 0-9 and '-', no '-' at the ends"
        )


def compose(
    directory: Path,
    name: str,
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
    file_digest: FileDigest = digest_file,
) -> dict[str, Any]:
    """Return the manifest for the built files in ``directory``.

    ``facts`` is the build's own report. Raises ImageError when a file or fact is missing.
    """
    files: dict[str, dict[str, Any]] = {}
    for each in FILE_NAMES:
        path = directory / each
        if not path.is_file() or path.stat().st_size == 0:
            raise ImageError(
                f"the build left no {each} in {directory}; see its log for the element that should make it"
            )
        files[each] = {"sha256": file_digest(path).removeprefix("sha256:"), "size_bytes": path.stat().st_size}
    missing = [fact for fact in _FACTS if not isinstance(facts.get(fact), _FIELDS[fact])]
    if missing:
        raise ImageError(
            f"the build's facts.json lacks {', '.join(missing)}; see image-elements/README.rst for its fields"
        )
    optional = {field: facts[field] for field in _OPTIONAL if field in facts}
    wrong = _wrong_optional(optional)
    if wrong:
        raise ImageError(f"the build's facts.json: {wrong}; correct the element that writes it")
    digest = inputs_digest(inputs)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version_of(digest),
        "created": _created(optional.get("build", {})),
        "inputs_digest": digest,
        "inputs": dict(inputs),
        "files": files,
        **{fact: facts[fact] for fact in _FACTS},
        **optional,
    }


def _created(build: Mapping[str, Any]) -> str:
    """Return the image's date: that of the newest thing in it, which every build of the same inputs agrees on.

    Only a build that does not report it (``source_date_epoch``) is dated by the clock.
    """
    epoch = build.get("source_date_epoch")
    moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(epoch, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def dump(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as the text that is stored."""
    return (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()


def load(directory: Path) -> dict[str, Any]:
    """Return the checked manifest of the image version in ``directory``. Raises ImageError."""
    return parse(directory, read(directory))


def read(directory: Path) -> bytes:
    """Return the bytes of the manifest in ``directory``, which are what a signature is over. Raises ImageError."""
    try:
        return (directory / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        raise ImageError(
            f"{directory} holds no {MANIFEST_NAME}, so it is no published image; build the image"
        ) from None
    except OSError as error:
        raise ImageError(f"cannot read {directory / MANIFEST_NAME}: {error.strerror}") from None


def parse(directory: Path, content: bytes) -> dict[str, Any]:
    """Return the checked manifest that ``content``, read from ``directory``, is. Raises ImageError.

    A manifest says which image and version it describes, and is refused in the directory of another.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path} is no JSON ({error}); remove the version and build the image again") from None
    wrong = _wrong_fields(manifest)
    if wrong:
        raise ImageError(f"{path}: {wrong}; remove the version and build the image again")
    described, place = (manifest["name"], manifest["version"]), (directory.parent.name, directory.name)
    if described != place:
        raise ImageError(
            f"{path} describes image {described[0]!r} version {described[1]!r}, but lies where {place[0]!r} version "
            f"{place[1]!r} belongs; remove the version and build the image again"
        )
    return dict(manifest)


def _wrong_fields(manifest: Any) -> str | None:
    """Return what is wrong with the manifest's shape, or None."""
    if not isinstance(manifest, dict):
        return "expected one JSON object"
    if manifest.get("schema_version") != SCHEMA_VERSION:
        return f"field schema_version: found {manifest.get('schema_version')!r}; allowed: {SCHEMA_VERSION}"
    for field, kind in _FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            return f"field {field}: missing or no {kind.__name__}"
    for name in sorted({*FILE_NAMES, *manifest["files"]}):
        entry = manifest["files"].get(name)
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("size_bytes"), int)
        ):
            return f"field files[{name!r}]: missing or without sha256 and size_bytes"
    return _wrong_optional(manifest)


def _wrong_optional(manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the fields that not every manifest has, or None."""
    for field, kind in _OPTIONAL.items():
        if field in manifest and not isinstance(manifest[field], kind):
            return f"field {field}: no {kind.__name__}"
    if "rootfs" in manifest and not _DIGEST.fullmatch(str(manifest["rootfs"].get("digest"))):
        return "field rootfs: no digest of the form sha256:<64 hexadecimal digits>"
    epoch = manifest.get("build", {}).get("source_date_epoch", 0)
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 32:
        return f"field build.source_date_epoch: found {epoch!r}; allowed: seconds since 1970, below 2^32"
    for layer in manifest.get("layers", []):
        if not isinstance(layer, dict) or not all(isinstance(layer.get(key), str) for key in ("name", "key")):
            return "field layers: an entry without name and key"
    return None


def check_sizes(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ImageError unless each file of the manifest is there with its size; reads no content."""
    for name, entry in sorted(manifest["files"].items()):
        path = directory / name
        if name in ("", "..") or not name.isprintable() or Path(name).name != name:
            raise ImageError(f"{directory / MANIFEST_NAME}: field files: {name!r} is no plain file name")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror})") from None
        if size != entry["size_bytes"]:
            raise _damaged(path, f"has {size} bytes, expected {entry['size_bytes']} by its manifest")


def check_digests(directory: Path, manifest: Mapping[str, Any], file_digest: FileDigest = digest_file) -> None:
    """Raise ImageError unless each file of the manifest has its size and its digest."""
    check_sizes(directory, manifest)
    for name, entry in sorted(manifest["files"].items()):
        path = directory / name
        try:
            found = file_digest(path).removeprefix("sha256:")
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror})") from None
        if found != entry["sha256"]:
            raise _damaged(path, f"has sha256 {found}, expected {entry['sha256']} by its manifest")


def _damaged(path: Path, what: str) -> ImageError:
    return ImageError(
        f"image file {path} {what}; it changed after it was published: remove {path.parent} and build again"
    )
