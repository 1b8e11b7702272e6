# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which image versions somebody needs: running guests, runtimes that could start, what the operator pinned.

Functions over a root path or plain data. A version that is needed stays, whoever collects garbage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from . import build_cleanup, image_manifest, images
from .image_manifest import ImageError

#: Where runtimes of a host say which files they start from, and would go back to (role hypervisor).
REFERENCE_FILES = ("/etc/vllmd/hypervisor/*.env", "/var/lib/vllmd/runtimes/*/served.json")
_PIN = re.compile(r"([^/]+)/([0-9a-f]{12})")


def parse_pins(pins: Iterable[str]) -> set[tuple[str, str]]:
    """Return name and version of each pin ``<name>/<version>``. Raises ImageError for anything else."""
    found = set()
    for pin in pins:
        match = _PIN.fullmatch(str(pin))
        if match is None:
            raise ImageError(
                f"pin {pin!r} is not possible; write <image name>/<version>, such as vllmd-cpu/3f2a91c04b7d"
            )
        image_manifest.check_name(match[1])
        found.add((match[1], match[2]))
    return found


def named_in(text: str, store: Path) -> set[tuple[str, str]]:
    """Return name and version of each image file of ``store`` that a text names; the version may be ``latest``."""
    pattern = re.compile(re.escape(f"{store}/") + r"([a-z0-9-]+)/([0-9a-f]{12}|latest)(?=[/\s\"',:;]|$)")
    return {(match[1], match[2]) for match in pattern.finditer(text)}


def needed(
    store: Path, pins: Iterable[str] = (), patterns: Iterable[str] = REFERENCE_FILES, root: Path = Path("/")
) -> dict[tuple[str, str], str]:
    """Return each version of the store that is needed, by name and version, with the reason in words.

    ``patterns`` are absolute paths with wildcards, taken below ``root``. A file that cannot be read raises OSError: it
    might name an image. Raises ImageError for a wrong pin.
    """
    found: dict[tuple[str, str], str] = {}

    def note(name: str, version: str, reason: str) -> None:
        if version == images.LATEST:
            version = images.latest_version(store, name) or ""
        if version:
            found.setdefault((name, version), reason)

    for name in images.names(store):
        note(name, images.LATEST, "the latest")
        for path in images.open_files(store / name, root / "proc"):
            note(name, path.relative_to(store / name).parts[0], "in use by a process")
    for loop, backing in build_cleanup.loop_files(root / "sys/block"):
        for name, version in named_in(backing, store):
            note(name, version, f"attached as {loop}")
    for name, version in parse_pins(pins):
        note(name, version, "pinned")
    for pattern in patterns:
        for path in sorted(root.glob(pattern.lstrip("/"))):
            for name, version in named_in(path.read_text(encoding="utf-8", errors="surrogateescape"), store):
                note(name, version, f"named in {path}")
    return found
