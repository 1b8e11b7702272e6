# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""HAProxy, which passes clients on to API servers that show a certificate of the authority it believes.

It reads that file when it starts and when it is reloaded (HAProxy's Configuration Manual, "ca-file"). A reload starts
new workers, which take the sockets over; those from before end with their last connection (Management Guide, "Stopping
and restarting HAProxy").
"""

from __future__ import annotations

import re
from pathlib import Path

from ..kubernetes.errors import NodeError
from ..kubernetes.programs import run
from . import components

UNIT = "haproxy.service"
CONFIGURATION = "etc/haproxy/haproxy.cfg"
_BELIEVED = re.compile(r"^[^#\n]*\sca-file\s+(/\S+)", re.MULTILINE)
_SECONDS = 60


def stale(root: Path) -> list[str]:
    """Return the files of authorities that have changed since HAProxy's newest worker started; empty without one.

    Raises OSError.
    """
    found = components.processes(root, ["haproxy"])
    if not found or not (root / CONFIGURATION).is_file():
        return []
    text = (root / CONFIGURATION).read_text(encoding="utf-8", errors="replace")
    started = max(process.started for process in found)
    files = {name: root / name.lstrip("/") for name in _BELIEVED.findall(text)}
    # The start of a process is known to a second only.
    return sorted(name for name, path in files.items() if path.is_file() and path.stat().st_mtime + 1 > started)


def reload_stale(root: Path, *, check: bool = False) -> list[str]:
    """Let HAProxy read again whom it believes, where that has changed; return its unit, or nothing.

    Raises NodeError, OSError.
    """
    if not stale(root):
        return []
    if not check:
        before = _workers(root)
        done = run(["systemctl", "reload", UNIT], timeout_seconds=_SECONDS)
        if done.status != 0:
            raise NodeError(f"{UNIT} does not read its files again: {done.last_line}; see 'journalctl -u haproxy'")
        components.wait(lambda: _workers(root) - before, f"{UNIT} to have new workers", _SECONDS)
    return [UNIT]


def _workers(root: Path) -> set[int]:
    return {process.pid for process in components.processes(root, ["haproxy"])}
