# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The one error of the cluster's API."""

from __future__ import annotations

#: HTTP's: there is none; somebody else changed it since it was read.
NOT_FOUND, CONFLICT = 404, 409


class ClusterError(Exception):
    """Why the API gave no answer, in one line. ``status`` is HTTP's, 0 when nobody answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
