"""Take out of a finished tree what says when and where it was built, and clamp its times.

Usage: vllmd_normalise.py TREE PACKAGES [EPOCH]

EPOCH, in seconds, is what nothing in the tree is newer than. Without it the newest Debian package of PACKAGES (output
of vllmd_packages.py) decides: dpkg keeps the date at which a package was made on its control files, so the same
packages give the same number on every day and every builder. Prints the epoch.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

#: Paths that a build leaves and no guest reads, as globs below the tree.
LEFTOVERS = (
    "etc/*-",
    "etc/.pwd.lock",
    "etc/.resolv.conf.systemd-resolved.bak",
    "etc/apt/apt.conf.d/95disable-recommends",
    "etc/apt/apt.conf.d/95no-translations",
    "root/.cache",
    "usr/local/bin/install-packages",
    "usr/local/bin/package-installs*",
    "usr/local/bin/package-uninstalls",
    "usr/local/bin/pkg-map",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*",
    "var/cache/debconf/*-old",
    "var/cache/fontconfig",
    "var/cache/ldconfig",
    "var/cache/man",
    "var/lib/apt/extended_states.*",
    "var/lib/apt/lists/*",
    "var/lib/apt/periodic/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/*lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/dpkg/updates/*",
    "var/lib/systemd/random-seed",
    "var/lib/vllmd-packages",
    "var/lib/vllmd/cache/**/*.lock",
)
#: What the build mounts over; a tree from a layer has them from another moment than one from nothing.
MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")
SECONDS_A_DAY = 86400


def newest_package(tree: Path, names: Iterable[str]) -> int:
    """Return when the newest of the packages ``names`` was made, in seconds since 1970. Raises SystemExit.

    For a package that brings no checksums, such as one made by the build, dpkg writes them while it installs it.
    """
    info = tree / "var/lib/dpkg/info"
    paths = (path for name in names for path in (*info.glob(f"{name}.md5sums"), *info.glob(f"{name}:*.md5sums")))
    dates = [int(path.stat().st_mtime) for path in paths]
    if not dates:
        sys.exit(f"vllmd-debian: {tree} has no Debian package to take a date from; set DIB_VLLMD_SOURCE_DATE_EPOCH")
    return max(dates)


def remove_leftovers(tree: Path) -> None:
    """Remove `LEFTOVERS` and the byte code that no source belongs to."""
    for pattern in LEFTOVERS:
        for path in sorted(tree.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def clamp_password_dates(tree: Path, epoch: int) -> None:
    """Set the day of the last password change, of every account that has one, to the epoch's (shadow(5), field 3)."""
    shadow = tree / "etc/shadow"
    if not shadow.is_file():
        return
    rows = [row.split(":") for row in shadow.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if len(row) > 2 and row[2]:
            row[2] = str(epoch // SECONDS_A_DAY)
    with shadow.open("r+", encoding="utf-8") as stream:  # in place: owner and permissions stay
        stream.write("".join(":".join(row) + "\n" for row in rows))
        stream.truncate()


def clamp_times(tree: Path, epoch: int) -> None:
    """Let nothing on the file system of ``tree`` be newer than ``epoch``, and no time have a part of a second.

    Directories are all of ``epoch``: their time is that of the last file that came or went, also of one that is not
    here any more, so it tells in what order packages were installed.
    """
    device = tree.lstat().st_dev
    waiting = [tree]
    while waiting:
        path = waiting.pop()
        status = path.lstat()
        if status.st_dev != device:
            continue
        seconds = min(int(status.st_mtime), epoch)
        if stat.S_ISDIR(status.st_mode):
            waiting.extend(path.iterdir())
            seconds = epoch
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def open_mount_points(tree: Path) -> None:
    """Give the directories that are mounted over in every system the usual permissions."""
    for name in MOUNT_POINTS:
        path = tree / name
        if path.is_dir():
            path.chmod(0o1777 if name == "tmp" else 0o755)


def main(arguments: list[str]) -> None:
    """Normalise the tree and print the epoch."""
    tree = Path(arguments[0])
    packages = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))["packages"]
    epoch = int(arguments[2]) if len(arguments) > 2 and arguments[2] else newest_package(tree, packages)
    remove_leftovers(tree)
    clamp_password_dates(tree, epoch)
    open_mount_points(tree)
    clamp_times(tree, epoch)
    print(epoch)


if __name__ == "__main__":
    main(sys.argv[1:])
