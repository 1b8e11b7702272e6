# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a killed build leaves on a host below its directory (mounts, loop devices, files), and its removal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


class CleanupError(RuntimeError):
    """Something below the build directory cannot be removed; the message is one line with what to do."""


def is_below(path: str, directory: Path) -> bool:
    """Tell whether ``path`` is ``directory`` or below it, by name."""
    root = str(directory).rstrip("/")
    return path == root or path.startswith(root + "/")


def mounts_below(mountinfo: str, directory: Path) -> list[str]:
    """Return the mount points at or below ``directory`` in the text of ``/proc/<pid>/mountinfo``, innermost first.

    The same mount point appears once per mount on it (proc_pid_mountinfo(5)).
    """
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            point = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), fields[4])
            if is_below(point, directory):
                found.append(point)
    return sorted(found, key=lambda point: point.count("/"), reverse=True)


def loop_files(sys_block: Path) -> list[tuple[str, str]]:
    """Return each attached loop device (``loop3``) with its backing file, which may have been removed since."""
    found = []
    for backing in sorted(sys_block.glob("loop*/loop/backing_file")):
        try:
            path = backing.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
        except OSError:
            continue  # detached in between
        found.append((backing.parent.parent.name, path.removesuffix(" (deleted)")))
    return found


def loops_below(sys_block: Path, directory: Path) -> list[str]:
    """Return the loop devices (``loop3``) whose backing file is, or before its removal was, below ``directory``."""
    return [loop for loop, path in loop_files(sys_block) if is_below(path, directory)]


def clean_directory(directory: Path, root: Path = Path("/")) -> list[str]:
    """Unmount, detach and remove everything below ``directory``, and ``directory`` itself. Returns what was done.

    Raises CleanupError when something stays, before any file below a remaining mount is touched.
    """
    done = []
    mountinfo = root / "proc/self/mountinfo"
    for point in mounts_below(mountinfo.read_text(encoding="utf-8", errors="surrogateescape"), directory):
        _run(["umount", "--no-canonicalize", point])
        done.append(f"unmounted {point}")
    for loop in loops_below(root / "sys/block", directory):
        _run(["losetup", "--detach", f"/dev/{loop}"])
        done.append(f"detached {loop}")
    remaining = mounts_below(mountinfo.read_text(encoding="utf-8", errors="surrogateescape"), directory)
    if remaining:
        raise CleanupError(f"{remaining[0]} is still mounted and in use; end what uses it, unmount it and try again")
    if directory.is_symlink():
        raise CleanupError(f"{directory} is a symbolic link; the build directory must be a directory of its own")
    if directory.exists():
        _remove(directory)
        done.append(f"removed {directory}")
    return done


def _remove(directory: Path) -> None:
    for attempt in (1, 2, 3):
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if attempt == 3:
                raise CleanupError(
                    f"cannot remove {error.filename or directory}: {error.strerror}; remove it"
                ) from None
            time.sleep(0.2)  # a process that is just ending may still have written
        else:
            return


def _run(arguments: list[str]) -> None:
    try:
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CleanupError(f"{' '.join(arguments)} failed: {' '.join(str(error).split())}; run it by hand") from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise CleanupError(f"{' '.join(arguments)} failed: {reason}; end what uses it and try again")


def free_mib(path: Path) -> tuple[int, Path]:
    """Return the space that is free on the filesystem of ``path`` in MiB, and the directory asked.

    For a directory that does not exist yet its nearest parent answers.
    """
    directory = path
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize // (1024 * 1024), directory
