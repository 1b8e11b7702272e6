# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run the approver: ``python3 -m vllmd_node_approver SETTINGS.json``; see docs/registration.md."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from .approver import Approver, Settings
from .cluster import Cluster
from .election import Election
from .errors import ClusterError
from .report import Report


def settings(path: Path) -> Settings:
    """Return the settings that the role wrote. Raises OSError, ValueError, TypeError."""
    return Settings(**json.loads(path.read_text(encoding="utf-8")))


def main() -> int:
    """Look at requests until somebody ends it; return the exit status."""
    # systemd's order to end is answered like Ctrl-C, so that the lease is given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given = settings(Path(sys.argv[1]))
        kubeconfig = Path(os.environ["CREDENTIALS_DIRECTORY"], "kubeconfig")
        cluster = Cluster(kubeconfig)
    except (IndexError, KeyError, OSError, TypeError, ValueError) as error:
        print(
            f"vllmd-node-approver: it cannot start: {type(error).__name__}: {error}; run role control_plane_controller",
            file=sys.stderr,
        )
        return 2
    report = Report(Path(os.environ.get("RUNTIME_DIRECTORY", "/run")) / "status.json", given.member)
    election = Election(cluster, given.member, given.lease_seconds, time.monotonic)
    approver = Approver(cluster, election, report, given)
    try:
        while True:
            approver.look()
            time.sleep(given.poll_seconds)
    except KeyboardInterrupt:
        report.notify("STOPPING=1")
    try:
        election.release()
    except ClusterError as error:
        report.line("lease", message=f"it was not given back and ends by itself: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
