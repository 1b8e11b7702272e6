# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The Debian packages of a lock file as a flat repository: found in the builder's cache, or fetched, always checked.

A mirror keeps the newest version of a package only. What a lock names stays in the cache of downloads
(``<cache>/dib/apt``); what is in neither place ends the build with its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import atomic
from .digests import DigestCache
from .image_lock import LockFileError

_APT_HELPER = "/usr/lib/apt/apt-helper"
_TIMEOUT_SECONDS = 600
_MOST_NAMED = 6


def cached_name(name: str, version: str, architecture: str) -> str:
    """Return the file name that apt gives a downloaded package (the colon of an epoch becomes ``%3a``)."""
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def lend(shared: Path, own: Path) -> None:
    """Fill the directory ``own`` of one build with the packages in ``shared``, as links where that is possible.

    apt locks the directory that it downloads to, so two builds at the same time cannot use one. Raises OSError.
    """
    atomic.make_directory(own)
    for file in shared.glob("*.deb"):
        _link(file, own / file.name)


def give_back(own: Path, shared: Path) -> None:
    """Put what the build downloaded besides into ``shared``. Raises OSError."""
    atomic.make_directory(shared)
    for file in own.glob("*.deb"):
        if not (shared / file.name).exists():
            partial = atomic.sibling(shared / file.name)
            _link(file, partial)
            partial.replace(shared / file.name)


def repository(
    packages: Mapping[str, Mapping[str, Any]],
    downloads: Path,
    mirrors: Sequence[str],
    target: Path,
    digests: DigestCache,
) -> None:
    """Make the flat repository ``target`` with exactly ``packages`` (a lock's), taken from ``downloads``.

    What is missing there is fetched from the first of ``mirrors`` that serves it. Raises LockFileError, which names
    what is served by none; OSError.
    """
    atomic.make_directory(downloads)
    missing = []
    index = []
    for name, pin in sorted(packages.items()):
        file = downloads / cached_name(name, pin["version"], pin["architecture"])
        if not file.is_file() or digests.digest(file) != f"sha256:{pin['sha256']}":
            file.unlink(missing_ok=True)
            if not any(_fetch(mirror, pin, file) for mirror in mirrors):
                missing.append(f"{name} {pin['version']}")
                continue
        place = target / pin["filename"]
        atomic.make_directory(place.parent)
        _link(file, place)
        index.append(_stanza(file, pin))
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise LockFileError(
            f"packages of the lock file are neither in {downloads} nor on a mirror any more: "
            f"{', '.join(missing[:_MOST_NAMED])}{more}; name a mirror that keeps old versions "
            "(runtime_assembler_mirror), bring the files back, or update the lock"
        )
    (target / "Packages").write_text("\n".join(index), encoding="utf-8")


def _link(file: Path, place: Path) -> None:
    """Put ``file`` at ``place`` without a copy where that is possible."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
    place.chmod(0o644)


def _fetch(mirror: str, pin: Mapping[str, Any], file: Path) -> bool:
    """Fetch one package; apt's own helper knows this host's proxies and certificates, and checks the digest."""
    partial = atomic.sibling(file)
    url = f"{mirror.rstrip('/')}/{quote(pin['filename'], safe='/+~%')}"
    try:
        done = subprocess.run(
            [_APT_HELPER, "download-file", url, str(partial), f"SHA256:{pin['sha256']}"],
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if done.returncode != 0 or not partial.is_file():
            return False
        atomic.replace_file(partial, file)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _stanza(file: Path, pin: Mapping[str, Any]) -> str:
    """Return the entry of a Packages index for a file. Raises LockFileError when it is no package."""
    done = subprocess.run(["dpkg-deb", "--field", str(file)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LockFileError(f"{file} is no Debian package: {' '.join(done.stderr.split())}; remove it")
    return f"{done.stdout}Filename: {pin['filename']}\nSize: {pin['size_bytes']}\nSHA256: {pin['sha256']}\n"
