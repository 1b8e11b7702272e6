# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write an OCI image layout (OCI image specification 1.0) of one layer. The same input gives the same bytes.

oci-layout, index.json, blobs/sha256/<digest> for manifest, configuration and layer
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CHUNK = 1 << 20
#: Higher levels take several times as long for a few percent.
_LEVEL = 6


class _Hashing:
    """A stream to write to that knows digest and size of what went through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Write and count."""
        self._digest.update(data)
        self.size += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Nothing is held back here."""

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of what was written."""
        return f"sha256:{self._digest.hexdigest()}"


def write(
    directory: Path,
    tar: IO[bytes],
    *,
    architecture: str,
    created: str,
    config: Mapping[str, Any],
    reference: str,
    labels: Mapping[str, str],
) -> dict[str, str]:
    """Write the layout into the empty ``directory``, its layer from the tar archive that ``tar`` yields.

    ``created`` is an RFC 3339 time, ``config`` the execution parameters (Entrypoint, Env, ...), ``reference`` the tag,
    ``labels`` annotations of image and manifest. Returns the digests of ``manifest``, ``config``, ``layer`` and of the
    layer before compression (``diff_id``). Raises OSError.
    """
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer, diff_id, size = _layer(blobs, tar)
    image = {
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": {**config, "Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": "vllmd.platform.image_export", "comment": reference}],
    }
    config_entry = _blob(blobs, image, _CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": config_entry,
        "layers": [{"mediaType": _LAYER, "digest": layer, "size": size}],
        "annotations": dict(labels),
    }
    manifest_entry = _blob(blobs, manifest, _MANIFEST)
    index_entry = {
        **manifest_entry,
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": reference},
    }
    (directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [index_entry]}))
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return {
        "manifest": manifest_entry["digest"],
        "config": config_entry["digest"],
        "layer": layer,
        "diff_id": diff_id,
    }


def _layer(blobs: Path, tar: IO[bytes]) -> tuple[str, str, int]:
    """Compress ``tar`` into a blob; return its digest, that of the archive itself, and the blob's size."""
    partial = blobs / ".layer"
    with partial.open("wb") as stream:
        outer = _Hashing(stream)
        # No name and no time in the header: they would differ.
        with gzip.GzipFile("", "wb", _LEVEL, cast("IO[bytes]", outer), mtime=0) as packed:
            inner = _Hashing(cast("IO[bytes]", packed))
            while chunk := tar.read(_CHUNK):
                inner.write(chunk)
    partial.rename(blobs / outer.digest().removeprefix("sha256:"))
    return outer.digest(), inner.digest(), outer.size


def _blob(blobs: Path, value: Mapping[str, Any], media_type: str) -> dict[str, Any]:
    content = _json(value)
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
