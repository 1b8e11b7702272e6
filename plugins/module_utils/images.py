# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The image store: ``<store>/<name>/<version>/`` with a manifest, and ``<store>/<name>/latest``, a relative link.

A version appears by one rename and never changes after that, except that a signature may be put beside its manifest.
Whoever changes the store holds `lock_path`'s lock.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import atomic, image_manifest
from .image_manifest import ImageError
from .signatures import SIGNATURE_NAME

LATEST = "latest"
#: From the bytes of a manifest to the content of its signature file.
Sign = Callable[[bytes], bytes]

_VERSION = re.compile(r"[0-9a-f]{12}")
_LEFTOVER = re.compile(r"\.([0-9a-f]{12}|latest)\.(partial|replaced)-[0-9]+")


def lock_path(store: Path, name: str) -> Path:
    """Return the lock file for the image ``name``; it is beside the image's directory, so both can come and go."""
    return store / f".{name}.lock"


def image_path(store: Path, name: str, version: str = LATEST) -> Path:
    """Return the directory of a published version, ``latest`` resolved. Raises ImageError when it is not there."""
    image_manifest.check_name(name)
    if version != LATEST and not _VERSION.fullmatch(version):
        raise ImageError(f"image version {version!r} is not possible; allowed: latest, or 12 hexadecimal digits")
    path = store / name / version
    if version == LATEST:
        target = latest_version(store, name)
        if target is None:
            raise ImageError(f"no image {name} in {store}; build it (role runtime_assembler) or correct the name")
        path = store / name / target
    if not path.is_dir():
        known = ", ".join(versions(store, name)) or "none"
        raise ImageError(f"no version {path.name} of image {name} in {store}; there is: {known}")
    return path


def latest_version(store: Path, name: str) -> str | None:
    """Return the version that ``latest`` names, or None when there is none."""
    try:
        target = (store / name / LATEST).readlink().name
    except OSError:
        return None
    return target if _VERSION.fullmatch(target) else None


def versions(store: Path, name: str) -> list[str]:
    """Return the published versions of ``name``, oldest first (by the time of publication)."""
    directory = store / name
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir()]
    return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))]


def names(store: Path) -> list[str]:
    """Return the names of the images in the store, sorted."""
    if not store.is_dir():
        return []
    return sorted(path.name for path in store.iterdir() if path.is_dir() and not path.name.startswith("."))


def partial_path(store: Path, name: str, version: str) -> Path:
    """Return where this process makes ``version`` before it is published: a sibling, so on the same filesystem."""
    return atomic.sibling(store / name / version)


def publish(partial: Path, store: Path, manifest: dict[str, Any], sign: Sign | None = None) -> Path:
    """Turn the directory ``partial`` into the version that ``manifest`` describes and point ``latest`` at it.

    ``partial`` must hold the manifest's files and nothing else. With ``sign`` the signature appears by the same rename.
    A damaged version of the same name is replaced. Returns the version's directory. Raises OSError, ImageError; the
    store is then as it was.
    """
    name, version = manifest["name"], manifest["version"]
    target = store / str(name) / str(version)
    for each in image_manifest.FILE_NAMES:
        (partial / each).chmod(0o444)
    content = image_manifest.dump(manifest)
    atomic.write_file(partial / image_manifest.MANIFEST_NAME, content, 0o444)
    if sign is not None:
        atomic.write_file(partial / SIGNATURE_NAME, sign(content), 0o444)
    partial.chmod(0o755)
    os.utime(partial)
    atomic.fsync_tree(partial)
    replaced = target.with_name(f".{version}.replaced-{os.getpid()}")
    if target.exists():
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    atomic.fsync_directory(target.parent)
    set_latest(store, name, version)
    remove_tree(replaced)
    return target


def add_signature(store: Path, name: str, version: str, sign: Sign) -> None:
    """Sign a published version, in the place of a signature that it may have. Call under the lock.

    Every byte of its files is read before: a signature must not vouch for files that do not fit. Raises OSError,
    ImageError.
    """
    target = store / name / version
    content = image_manifest.read(target)
    image_manifest.check_digests(target, image_manifest.parse(target, content))
    published = target.stat()
    # Made outside the version's directory, where `clean` finds what a killed process leaves.
    new = partial_path(store, name, version)
    try:
        new.write_bytes(sign(content))
        new.chmod(0o444)
        atomic.replace_file(new, target / SIGNATURE_NAME)
    finally:
        new.unlink(missing_ok=True)
    # The directory's time is the time of publication (`versions`).
    os.utime(target, ns=(published.st_atime_ns, published.st_mtime_ns))


def set_latest(store: Path, name: str, version: str) -> None:
    """Point ``latest`` at ``version``; readers see the old or the new one. Raises OSError."""
    atomic.write_link(store / name / LATEST, version)


def leftovers(store: Path, name: str) -> list[Path]:
    """Return what a killed process left in the image's directory. Only valid under the lock."""
    directory = store / name
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _LEFTOVER.fullmatch(path.name))


def clean(store: Path, name: str) -> list[Path]:
    """Remove `leftovers`, except that a version which was being replaced is put back. Call under the lock."""
    done = leftovers(store, name)
    for path in done:
        original = path.with_name(path.name.split(".")[1])
        if ".replaced-" in path.name and not original.exists():
            path.rename(original)
        else:
            remove_tree(path)
    directory = store / name
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    return done


def removable(store: Path, name: str, keep: int, in_use: Iterable[Path] = ()) -> list[str]:
    """Return the versions beyond the ``keep`` newest, without ``latest`` and those below a path of ``in_use``."""
    used = {part.name for path in in_use for part in [path, *path.parents] if part.parent == store / name}
    latest = latest_version(store, name)
    older = [version for version in versions(store, name) if version != latest]
    beyond = older[: max(0, len(older) - max(0, keep - 1))]
    return [version for version in beyond if version not in used]


def remove_version(store: Path, name: str, version: str) -> None:
    """Remove a version in one step for readers: it is renamed away before its files go. Raises OSError."""
    target = store / name / version
    if latest_version(store, name) == version:
        (store / name / LATEST).unlink()
    gone = target.with_name(f".{version}.partial-{os.getpid()}")
    target.rename(gone)
    remove_tree(gone)


def remove_image(store: Path, name: str) -> None:
    """Remove every version of ``name``. Raises OSError, ImageError."""
    image_manifest.check_name(name)
    for version in versions(store, name):
        remove_version(store, name, version)
    clean(store, name)
    (store / name / LATEST).unlink(missing_ok=True)
    if (store / name).is_dir():
        (store / name).rmdir()


def remove_tree(path: Path) -> None:
    """Remove a directory tree or a link, if it is there. Raises OSError."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def open_files(directory: Path, proc: Path = Path("/proc")) -> list[Path]:
    """Return the files below ``directory`` that some process holds open, such as the disk of a running guest."""
    prefix = f"{directory}/"
    found = set()
    for link in proc.glob("[0-9]*/fd/*"):
        try:
            target = str(link.readlink())
        except OSError:
            continue  # the process ended, or its descriptor was closed
        if target.startswith(prefix):
            found.add(Path(target))
    return sorted(found)
