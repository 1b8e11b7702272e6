# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The lock file of an image: everything it was made from, pinned, and what has to come out (``image-lock-v1``).

A build with a lock makes that image again or refuses and names what differs. ``image.lock`` is JSON, written sorted, so
that a change of it reads well in version control.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import atomic
from .digests import FileDigest, digest_file, digest_text
from .image_inputs import changes
from .image_manifest import ImageError

SCHEMA_VERSION = 1
_FIELDS: dict[str, type] = {
    "schema_version": int,
    "image": str,
    "source_date_epoch": int,
    "inputs": dict,
    "packages": dict,
    "wheels": dict,
    "models": dict,
    "outputs": dict,
}
_PACKAGE: dict[str, type] = {
    "version": str,
    "architecture": str,
    "sha256": str,
    "size_bytes": int,
    "filename": str,
    "source": str,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A path in a package archive; nothing that leaves the directory it is put in.
_FILENAME = re.compile(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9][A-Za-z0-9._+~%:/-]*\.deb")
#: Inputs that a lock adds to those of the build, so that an image with a lock is another version than one without.
_LABELS = ("lock packages", "lock source_date_epoch")
_MOST_NAMED = 12

Lock = dict[str, Any]


class LockFileError(ImageError):
    """A lock file is missing, is none, or cannot be kept; the message is one line: what, where, why, what to do."""


def load(path: Path) -> Lock:
    """Return the checked lock in the file ``path``. Raises LockFileError."""
    try:
        lock = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LockFileError(
            f"lock file {path} is not there; make it (runtime_assembler_lock_update), or correct the path"
        ) from None
    except OSError as error:
        raise LockFileError(f"cannot read lock file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LockFileError(f"lock file {path} is no JSON ({error}); restore it, or make it anew") from None
    wrong = _wrong(lock)
    if wrong:
        raise LockFileError(f"lock file {path}: {wrong}; restore it, or make it anew (runtime_assembler_lock_update)")
    return dict(lock)


def _wrong(lock: Any) -> str | None:
    """Return what is wrong with the lock's shape, or None."""
    if not isinstance(lock, dict) or set(lock) != set(_FIELDS):
        return f"not one JSON object with exactly the fields {', '.join(_FIELDS)}"
    for field, kind in _FIELDS.items():
        if not isinstance(lock[field], kind) or isinstance(lock[field], bool):
            return f"field {field}: no {kind.__name__}"
    if lock["schema_version"] != SCHEMA_VERSION:
        return f"field schema_version: found {lock['schema_version']}; allowed: {SCHEMA_VERSION}"
    for name, pin in lock["packages"].items():
        if not isinstance(pin, dict) or not all(isinstance(pin.get(key), kind) for key, kind in _PACKAGE.items()):
            return f"package {name}: without {', '.join(_PACKAGE)}"
        if not _SHA256.fullmatch(pin["sha256"]) or not _FILENAME.fullmatch(pin["filename"]):
            return f"package {name}: sha256 is no digest, or filename no path of a .deb below an archive"
    for name, pin in lock["wheels"].items():
        if not isinstance(pin, dict) or not all(isinstance(pin.get(key), str) for key in ("version", "file", "sha256")):
            return f"wheel {name}: without version, file, sha256"
    if not isinstance(lock["outputs"].get("rootfs"), str) or not isinstance(lock["outputs"].get("files"), dict):
        return "field outputs: without rootfs and files"
    return None


def dump(lock: Lock) -> bytes:
    """Return the lock as the text that is stored."""
    return (json.dumps(lock, indent=1, sort_keys=True) + "\n").encode()


def write(path: Path, lock: Lock) -> None:
    """Write the lock file, or replace it as a whole. Raises OSError."""
    atomic.make_directory(path.parent)
    atomic.write_file(path, dump(lock), 0o644)


def compose(image: str, inputs: Mapping[str, str], facts: Mapping[str, Any], files: Mapping[str, str]) -> Lock:
    """Return the lock of the image that was just built.

    ``inputs`` are those of the build without a lock's own, ``facts`` the build's report with the field ``lock``
    (`pins`), ``files`` the SHA-256 of each image file. Raises LockFileError when the build did not report enough.
    """
    pinned, build, rootfs = facts.get("lock", {}), facts.get("build", {}), facts.get("rootfs", {})
    if not pinned.get("packages") or "source_date_epoch" not in build or "digest" not in rootfs:
        raise LockFileError(
            "the build reported no packages, no source_date_epoch or no rootfs digest, so nothing can be locked; "
            "use an element that reports them (vllmd-debian)"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "image": image,
        "source_date_epoch": build["source_date_epoch"],
        "inputs": without_lock(inputs),
        "packages": pinned["packages"],
        "wheels": pinned.get("wheels", {}),
        "models": {model["name"]: model["digest"] for model in facts.get("models", [])},
        "outputs": {"rootfs": rootfs["digest"], "files": dict(sorted(files.items()))},
    }


def wheel_pins(wheelhouse: Path | None, file_digest: FileDigest = digest_file) -> dict[str, dict[str, str]]:
    """Return version, file name and SHA-256 of every wheel, by project (PEP 427 names the file). Raises OSError."""
    found = {}
    for path in sorted(wheelhouse.glob("*.whl")) if wheelhouse else []:
        project, version, *_tags = path.name.removesuffix(".whl").split("-")
        name = re.sub(r"[-_.]+", "-", project).lower()
        digest = file_digest(path).removeprefix("sha256:")
        found[name] = {"version": version, "file": path.name, "sha256": digest}
    return found


def inputs_of(lock: Lock) -> dict[str, str]:
    """Return the inputs that the lock itself is: what it pins, not what is to come out."""
    packages = json.dumps(lock["packages"], sort_keys=True)
    return dict(zip(_LABELS, (digest_text(packages), str(lock["source_date_epoch"])), strict=True))


def without_lock(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs without those that a lock added."""
    return {label: value for label, value in sorted(inputs.items()) if label not in _LABELS}


def check_inputs(path: Path, lock: Lock, image: str, inputs: Mapping[str, str]) -> None:
    """Raise LockFileError, naming what differs, unless the lock is for ``image`` and made from these ``inputs``."""
    if lock["image"] != image:
        raise LockFileError(f"lock file {path} is for image {lock['image']}, not {image}; name that image's lock file")
    here = without_lock(inputs)
    different = [
        f"{label} ({_short(lock['inputs'].get(label.split(' (')[0]))} in the lock, "
        f"{_short(here.get(label.split(' (')[0]))} here)"
        for label in changes(lock["inputs"], here)
    ]
    if different:
        raise LockFileError(
            f"lock file {path} was made from other inputs: {_some(different)}; restore them, or update the lock "
            "(runtime_assembler_lock_update: true)"
        )


def check_result(path: Path, lock: Lock, made: Lock) -> None:
    """Raise LockFileError, naming what differs, unless the build came out as the lock says."""
    different = differences(lock, made)
    if different:
        raise LockFileError(
            f"the build did not come out as lock file {path} says: {_some(different)}; nothing was published. Build "
            "without the lock and compare with scripts/compare-images, or update the lock"
        )


def differences(old: Lock | None, new: Lock) -> list[str]:
    """Return what changed from one lock to another, a line for each package, wheel, model, input and output."""
    if old is None:
        return [f"new: {len(new['packages'])} packages, {len(new['wheels'])} wheels, {len(new['models'])} models"]
    lines = []
    for kind in ("packages", "wheels"):
        for name in sorted({*old[kind], *new[kind]}):
            before, after = old[kind].get(name), new[kind].get(name)
            if before is None or after is None:
                there = before or after
                lines.append(f"{kind[:-1]} {name} {there['version']} ({'new' if before is None else 'gone'})")
            elif before["version"] != after["version"]:
                lines.append(f"{kind[:-1]} {name} {before['version']} -> {after['version']}")
            elif before["sha256"] != after["sha256"]:
                lines.append(f"{kind[:-1]} {name} {before['version']} (another file of the same version)")
    for name in sorted({*old["models"], *new["models"]}):
        if old["models"].get(name) != new["models"].get(name):
            lines.append(f"model {name} {_short(old['models'].get(name))} -> {_short(new['models'].get(name))}")
    lines += [f"input {label}" for label in changes(old["inputs"], new["inputs"])]
    if old["source_date_epoch"] != new["source_date_epoch"]:
        lines.append(f"source_date_epoch {old['source_date_epoch']} -> {new['source_date_epoch']}")
    outputs = {"rootfs": (old["outputs"]["rootfs"], new["outputs"]["rootfs"])}
    for name in sorted({*old["outputs"]["files"], *new["outputs"]["files"]}):
        outputs[name] = (old["outputs"]["files"].get(name), new["outputs"]["files"].get(name))
    lines += [f"output {name} {_short(a)} -> {_short(b)}" for name, (a, b) in outputs.items() if a != b]
    return lines


def _short(value: str | None) -> str:
    """Return a value as it is read: a digest by its first digits."""
    if value is None:
        return "nothing"
    digits = value.removeprefix("sha256:")
    return digits[:12] if _SHA256.fullmatch(digits) else value


def _some(lines: list[str]) -> str:
    more = f" and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
    return ", ".join(lines[:_MOST_NAMED]) + more
