# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The layers of one build: where it starts, what it keeps for later ones, and what is told of them and the builder."""

from __future__ import annotations

import json
import platform
import time
from datetime import UTC, datetime
from typing import Any

from . import image_inputs, image_layers
from .digests import DigestCache
from .image_plan import Request

#: Beside the manifest and not signed: how the build went, which differs from one build to the next.
BUILD_NAME = "build.json"


class BuildLayers:
    """The layers of one build: where it starts, what it leaves for later ones, and what is told of them.

    Call within `image_layers.in_use`. Without a cache of layers (``layers_max_mib`` 0) all of it does nothing.
    """

    def __init__(self, request: Request, inputs: dict[str, str], cache: DigestCache) -> None:
        self._cache = request.cache_dir
        self._enabled = request.layers_max_mib > 0
        self._written = request.work_dir / "layers"
        self._started = time.time()
        elements = image_inputs.resolve_elements(request.elements, request.elements_paths)
        self._elements, self._digest = elements, cache.digest
        self._layers = image_layers.keys(inputs, elements, cache.digest)
        # An updated lock is made from what the mirrors serve now, not from what a layer holds.
        fresh = request.lock_update or not self._enabled
        self._start = None if fresh else image_layers.deepest(self._cache, self._layers)
        self.environment: dict[str, str] = {}
        if self._enabled:
            (self._written / "since").write_text(f"{int(self._started)}\n", encoding="ascii")
            self.environment["DIB_VLLMD_LAYERS_DIR"] = str(self._written)
        if self._start:
            image_layers.touch(self._cache, self._start.key)
            self.environment["DIB_VLLMD_LAYER"] = str(image_layers.tree_path(self._cache, self._start.key))
            self.environment["DIB_VLLMD_LAYER_NAME"] = self._start.name
            self.environment["DIB_VLLMD_LAYER_LAST"] = str(self._start.last)
        self._rows: list[dict[str, Any]] = []

    @property
    def whole(self) -> bool:
        """Tell whether the build starts from the topmost layer, so that no package is installed."""
        return self._start is not None and self._start == self._layers[-1]

    def keep(self, inputs: dict[str, str]) -> None:
        """Move the layers that were finished into the cache; ``inputs`` are those that the image is published with."""
        self._layers = image_layers.keys(inputs, self._elements, self._digest)
        self._rows = image_layers.report(self._written, self._layers, self._start, self._cache, self._started)
        for layer, row in zip(self._layers, self._rows, strict=False):
            archive = self._written / f"{layer.name}.tar"
            if self._enabled and archive.is_file():
                created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                image_layers.keep(self._cache, layer, archive, {"seconds": row["seconds"], "created": created})

    def facts(self) -> list[dict[str, str]]:
        """Return what the manifest says: names and keys, which do not depend on what was reused."""
        return [{"name": layer.name, "key": layer.key} for layer in self._layers]

    def report(self) -> dict[str, Any]:
        """Return the content of build.json: how this one build went, nothing that another one has to repeat."""
        finished = time.time()
        return {
            "schema_version": 1,
            "started": _utc(self._started),
            "finished": _utc(finished),
            "seconds": round(finished - self._started),
            "host_kernel": platform.release(),
            "layers": self._rows,
        }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dump(value: dict[str, Any]) -> bytes:
    """Return a report as the text that is stored."""
    return (json.dumps(value, indent=1) + "\n").encode()


def builder_facts() -> dict[str, str]:
    """Return what the manifest says of the builder; versions of its tools are inputs."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    name = f"{system.get('ID', 'linux')} {system.get('VERSION_ID', '')}".strip()
    return {"system": name, "python": platform.python_version()}
