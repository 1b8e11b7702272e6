"""Print the models of an image as JSON: [{"name": NAME, "digest": "sha256:..."}].

Usage: vllmd_models.py MODELS_DIRECTORY [NAME ...]

The digest covers what is served: SHA-256 over the lines ``<sha256 of file>  <relative path>\\n`` of all files, sorted
by path.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def tree_digest(directory: Path) -> str:
    """Return ``sha256:<hex>`` of a directory's files: contents and relative paths, not modes or times."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{digest}  {path.relative_to(directory).as_posix()}\n".encode())
    return f"sha256:{total.hexdigest()}"


if __name__ == "__main__":
    print(json.dumps([{"name": name, "digest": tree_digest(Path(sys.argv[1]) / name)} for name in sys.argv[2:]]))
