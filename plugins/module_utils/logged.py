# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run a long command so that a person can watch it, and so that it ends with its caller."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import atomic
from .signals import signals_raise

#: Seconds that an interrupted command gets to undo what it began.
GRACE_SECONDS = 30


def run(argv: list[str], log_path: Path) -> tuple[int, str]:
    """Run ``argv`` with its standard error in the log; return its exit status and its standard output.

    setpriv has the kernel end the command when the calling process is killed. Raises OSError, and Interrupted after a
    signal, when the command has ended.
    """
    atomic.make_directory(log_path.parent)
    with log_path.open("wb") as log, signals_raise():
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
        )
        try:
            output, _nothing = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.wait(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    return process.returncode, output.strip()
