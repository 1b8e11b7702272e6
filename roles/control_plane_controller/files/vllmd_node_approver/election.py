# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who of several approvers acts: the holder of a Lease (kubernetes.io, "Leases").

Two that act at once would do no harm: what they write has to be what they have read, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from .errors import CONFLICT, ClusterError

NAME = "node-approver"


class Leases(Protocol):
    """What of a cluster is needed."""

    def lease(self, name: str) -> dict[str, Any] | None:
        """Return the Lease, None when there is none."""

    def keep_lease(self, lease: dict[str, Any], *, is_new: bool) -> None:
        """Make or replace it."""


class Election:
    """One candidate. ``clock`` counts seconds and never goes back; other machines' clocks are not compared with it."""

    def __init__(self, cluster: Leases, member: str, seconds: int, clock: Callable[[], float]) -> None:
        self._cluster, self._member, self._seconds, self._clock = cluster, member, seconds, clock
        self._until = self._renew = 0.0
        self._seen: tuple[Any, ...] = ()
        self._seen_at = 0.0
        self.holder = ""

    @property
    def is_leader(self) -> bool:
        """Return whether the lease is ours for now."""
        return self._clock() < self._until

    def hold(self) -> bool:
        """Take or renew the lease if that is due; return whether it is ours. Raises ClusterError."""
        now = self._clock()
        if now < self._renew:
            return True
        found = self._cluster.lease(NAME)
        spec = (found or {}).get("spec") or {}
        self.holder = spec.get("holderIdentity") or ""
        seen = (self.holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        is_over = not self.holder or now - self._seen_at > (spec.get("leaseDurationSeconds") or self._seconds)
        if self.holder != self._member and not is_over:
            self._until = self._renew = 0.0
            return False
        try:
            self._cluster.keep_lease(self._ours(found, spec), is_new=found is None)
        except ClusterError as error:
            if error.status != CONFLICT:
                raise
            self._until = self._renew = 0.0  # another one was quicker
            return False
        self.holder = self._member
        # Counted from before the renewal was asked for; renewed when a third of it is over.
        self._until, self._renew = now + self._seconds, now + self._seconds / 3
        return True

    def _ours(self, found: dict[str, Any] | None, spec: dict[str, Any]) -> dict[str, Any]:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_change = spec.get("holderIdentity") != self._member
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": found["metadata"] if found else {"name": NAME},
            "spec": {
                "holderIdentity": self._member,
                "leaseDurationSeconds": self._seconds,
                "acquireTime": moment if is_change else spec.get("acquireTime"),
                "renewTime": moment,
                "leaseTransitions": (spec.get("leaseTransitions") or 0) + is_change,
            },
        }

    def release(self) -> None:
        """Give the lease back if it is ours, so that nobody waits for its end. Raises ClusterError."""
        if not self.is_leader:
            return
        self._until = self._renew = 0.0
        found = self._cluster.lease(NAME)
        if found is None or found["spec"].get("holderIdentity") != self._member:
            return
        found["spec"].update(holderIdentity="", leaseDurationSeconds=1)
        self._cluster.keep_lease(found, is_new=False)
