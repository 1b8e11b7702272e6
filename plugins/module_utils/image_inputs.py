# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an image is made from, each input with its own digest, so that a rebuild can say which of them changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .digests import FileDigest, digest_file, digest_text, digest_tree

#: Raise it when the pipeline itself changes what comes out of the same inputs.
INPUTS_SCHEMA = "1"
VERSION_LENGTH = 12
#: Stands for a tree that an earlier step has yet to make.
MISSING = "(missing)"


class InputError(ValueError):
    """An input cannot be read or does not exist; the message is one line with what to do."""


def resolve_elements(names: Sequence[str], paths: Sequence[Path]) -> dict[str, Path]:
    """Return the directory of each named element and, by ``element-deps``, of those they need, sorted by name.

    Elements that are in none of ``paths`` are taken for diskimage-builder's own and left out; its version stands for
    them. Raises InputError when a directly named path does not exist.
    """
    for path in paths:
        if not path.is_dir():
            raise InputError(f"elements_path {path} is no directory; give the directory that holds the elements")
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        directory = next((path / name for path in paths if (path / name).is_dir()), None)
        if directory is None or name in found:
            continue
        found[name] = directory
        dependencies = directory / "element-deps"
        if dependencies.is_file():
            waiting.extend(_words(dependencies.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


def _words(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in line.partition("#")[0].split()]


def collect(
    *,
    settings: Mapping[str, str],
    elements: Sequence[str],
    elements_paths: Sequence[Path],
    environment: Mapping[str, str],
    models: Mapping[str, Path],
    wheelhouse: Path | None,
    tools: Mapping[str, str],
    file_digest: FileDigest = digest_file,
    missing_ok: bool = False,
) -> dict[str, str]:
    """Return every input of a build as ``{label: value or digest}``.

    ``settings`` are profile, release, architecture and the like; ``environment`` the DIB_* variables that the user
    set, of which one that is the path of a file or directory counts by its contents, wherever that lies; ``models``
    model name to directory; ``tools`` program to version. Mirrors are no inputs: what they serve is the same. With
    ``missing_ok`` a model or wheelhouse that an earlier step has yet to make counts as ``(missing)``. Raises InputError
    when one does not exist or cannot be read.
    """
    inputs = {"schema": INPUTS_SCHEMA, "elements": " ".join(elements)}
    inputs.update({f"setting {name}": value for name, value in settings.items()})
    inputs.update({f"tool {name}": version for name, version in tools.items()})
    trees = {f"element {name}": path for name, path in resolve_elements(elements, elements_paths).items()}
    trees.update({f"model {name}": path for name, path in models.items()})
    if wheelhouse is not None:
        trees["wheelhouse"] = wheelhouse
    for name, value in environment.items():
        # Such as a directory of packages that an element takes from; /dev/vda in a kernel's command line is none.
        if value.startswith("/") and (Path(value).is_dir() or Path(value).is_file()):
            trees[f"content {name}"] = Path(value)
        else:
            inputs[f"environment {name}"] = value
    for label, path in trees.items():
        if missing_ok and not path.exists():
            inputs[label] = MISSING
            continue
        if not path.exists():
            raise InputError(f"{label}: {path} does not exist; make it first or correct the path")
        try:
            inputs[label] = digest_tree(path, file_digest)
        except OSError as error:
            raise InputError(f"{label}: cannot read {error.filename or path}: {error.strerror}") from None
    return dict(sorted(inputs.items()))


def inputs_digest(inputs: Mapping[str, str]) -> str:
    """Return the one digest (``sha256:<hex>``) that stands for all inputs."""
    return digest_text(json.dumps(inputs, sort_keys=True))


def version_of(digest: str) -> str:
    """Return the image version for an inputs digest: its first 12 hexadecimal digits."""
    return digest.removeprefix("sha256:")[:VERSION_LENGTH]


def changes(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[str]:
    """Return the labels of the inputs that differ, with ``(new)`` or ``(gone)`` where one side lacks it."""
    if before is None:
        return []
    labels = []
    for label in sorted({*before, *after}):
        if label not in before:
            labels.append(f"{label} (new)")
        elif label not in after:
            labels.append(f"{label} (gone)")
        elif before[label] != after[label]:
            labels.append(label)
    return labels
