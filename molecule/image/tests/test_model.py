"""Layer model: what is served is what the manifest says, down to the digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MODELS = "var/lib/vllmd/models"


def tree_digest(directory: Path) -> str:
    """SHA-256 over ``<sha256>  <path>`` of every file, as docs/images.md defines a model's digest."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{digest}  {path.relative_to(directory).as_posix()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def test_models_and_digests_are_those_of_the_manifest(tree: Path, manifest: dict[str, Any]) -> None:
    found = [{"name": path.name, "digest": tree_digest(path)} for path in sorted((tree / MODELS).iterdir())]
    assert found == sorted(manifest["models"], key=lambda model: model["name"])


def test_every_model_is_complete(tree: Path, manifest: dict[str, Any]) -> None:
    for model in manifest["models"]:
        directory = tree / MODELS / model["name"]
        assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"]
        assert list(directory.glob("*.safetensors"))
        assert list(directory.glob("tokenizer*"))


def test_no_model_brings_code(tree: Path) -> None:
    """Weights are data: no Python, no pickles, nothing to execute."""
    suffixes = {".py", ".pkl", ".pt", ".bin", ".so"}
    assert [path for path in (tree / MODELS).rglob("*") if path.suffix in suffixes] == []
    assert [path for path in (tree / MODELS).rglob("*") if path.is_file() and path.stat().st_mode & 0o111] == []


def test_models_are_for_everybody_to_read_and_for_nobody_to_write(tree: Path) -> None:
    for path in (tree / MODELS, *(tree / MODELS).rglob("*")):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022, status.st_mode & 0o004) == (0, 0, 0o004), path
