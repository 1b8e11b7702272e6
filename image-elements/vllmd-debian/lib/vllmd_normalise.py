"""Take out of a finished tree what says when and where it was built, and clamp its times.

Usage: vllmd_normalise.py TREE [EPOCH]

EPOCH, in seconds, is what nothing in the tree is newer than. Without it the newest Debian package decides: dpkg keeps
the date at which a package was made on its control files, so the same packages give the same number on every day and
every builder. Prints the epoch.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

#: Paths that a build leaves and no guest reads, as globs below the tree.
LEFTOVERS = (
    "etc/*-",
    "etc/.pwd.lock",
    "etc/.resolv.conf.systemd-resolved.bak",
    "etc/apt/apt.conf.d/95disable-recommends",
    "etc/apt/apt.conf.d/95no-translations",
    "root/.cache",
    "var/cache/apt/*.bin",
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
SECONDS_A_DAY = 86400


def newest_package(tree: Path) -> int:
    """Return when the newest installed Debian package was made, in seconds since 1970. Raises SystemExit."""
    dates = [int(path.stat().st_mtime) for path in (tree / "var/lib/dpkg/info").glob("*.md5sums")]
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
    """Let nothing on the file system of ``tree`` be newer than ``epoch``, and no time have a part of a second."""
    device = tree.lstat().st_dev
    waiting = [tree]
    while waiting:
        path = waiting.pop()
        status = path.lstat()
        if status.st_dev != device:
            continue
        if stat.S_ISDIR(status.st_mode):
            waiting.extend(path.iterdir())
        seconds = min(int(status.st_mtime), epoch)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def main(arguments: list[str]) -> None:
    """Normalise the tree and print the epoch."""
    tree = Path(arguments[0])
    epoch = int(arguments[1]) if len(arguments) > 1 and arguments[1] else newest_package(tree)
    remove_leftovers(tree)
    clamp_password_dates(tree, epoch)
    clamp_times(tree, epoch)
    print(epoch)


if __name__ == "__main__":
    main(sys.argv[1:])
