# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The config image: an ISO 9660 filesystem labelled CIDATA, the same bytes for the same content.

xorriso makes it. Everything that would differ from one run to the next (dates, the volume's UUID, owners, modes, the
order of files, the program's own version in the volume header) is given, as xorriso's documentation of
SOURCE_DATE_EPOCH asks.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOLUME_ID = "CIDATA"
#: Every date in the image: 2025-01-01 00:00:00 UTC. Its value is of no use to a guest, its constancy is.
EPOCH_SECONDS = 1735689600
TIMEOUT_SECONDS = 60

RUNTIME_FILE = "vllmd/runtime.json"
_READING = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

Runner = Callable[[list[str], dict[str, str]], "tuple[int, str]"]


class IsoError(RuntimeError):
    """The image cannot be made; the message is one line with the cause and what to do."""


def write_tree(files: dict[str, bytes], root: Path) -> None:
    """Write ``files`` (relative path to content) below the empty directory ``root``, mode 0644 and dated EPOCH."""
    for name, content in sorted(files.items()):
        path = root / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    for directory, names, found in os.walk(root, topdown=False):
        for name in [*found, *names]:
            os.utime(Path(directory, name), (EPOCH_SECONDS, EPOCH_SECONDS))
    os.utime(root, (EPOCH_SECONDS, EPOCH_SECONDS))


def command(root: Path, image: Path) -> list[str]:
    """Return the xorriso command that writes ``image`` from the directory ``root``."""
    date = "2025010100000000"
    return [
        "xorriso",
        "-no_rc",
        "-abort_on", "FATAL", "-return_with", "SORRY", "32",
        "-report_about", "WARNING",
        "-outdev", f"stdio:{image}",
        "-volid", VOLUME_ID,
        "-application_id", "VLLMD", "-preparer_id", "VLLMD", "-system_id", "LINUX",
        "-volume_date", "all_file_dates", date,
        "-volume_date", "c", date,
        "-volume_date", "m", date,
        "-volume_date", "uuid", date,
        "-joliet", "on", "-rockridge", "on",
        "-padding", "0",
        "-map", str(root), "/",
        "-chown_r", "0", "/", "--", "-chgrp_r", "0", "/", "--",
        # In the guest only root reads what may hold a token.
        "-find", "/", "-type", "f", "-exec", "chmod", "0400", "--",
        "-find", "/", "-type", "d", "-exec", "chmod", "0500", "--",
        "-commit",
    ]  # fmt: skip


def environment(base: dict[str, str]) -> dict[str, str]:
    """Return ``base`` with what makes xorriso deterministic."""
    return {**base, "SOURCE_DATE_EPOCH": str(EPOCH_SECONDS), "TZ": "UTC", "LC_ALL": "C"}


def run(arguments: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run ``arguments`` and return the exit status with both outputs together. Raises OSError, TimeoutExpired."""
    done = subprocess.run(
        arguments,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SECONDS,
    )
    return done.returncode, done.stdout


def make(files: dict[str, bytes], work: Path, runner: Runner = run) -> bytes:
    """Return the image's bytes for ``files``, using the empty directory ``work`` as scratch space.

    Raises IsoError when xorriso is missing or refuses, in one line.
    """
    tree, image = work / "tree", work / "config.iso"
    tree.mkdir(mode=0o755)
    write_tree(files, tree)
    try:
        status, output = runner(command(tree, image), environment(dict(os.environ)))
    except FileNotFoundError:
        raise IsoError("cannot write the config image: xorriso is not installed; install the package xorriso") from None
    except subprocess.TimeoutExpired:
        raise IsoError(f"cannot write the config image: xorriso did not end within {TIMEOUT_SECONDS} s") from None
    if status != 0 or not image.is_file():
        last = [line.strip() for line in output.splitlines() if line.strip()][-2:]
        raise IsoError(f"cannot write the config image: xorriso ended with status {status}: {'; '.join(last)}")
    return image.read_bytes()


def read_guest(path: Path, work: Path) -> dict[str, Any]:
    """Return the ``runtime.json`` of the image at ``path``, an empty dict when it cannot be read.

    ``work`` is an existing directory for it.
    """
    target = work / "before.json"
    target.unlink(missing_ok=True)
    source = ["-osirrox", "on", "-indev", str(path)]
    try:
        run(["xorriso", "-no_rc", *source, "-extract", f"/{RUNTIME_FILE}", str(target)], _READING)
        before = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return before if isinstance(before, dict) else {}
