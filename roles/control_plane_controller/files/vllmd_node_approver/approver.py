# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One look at the requests: judge those of nodes, keep what belongs to the record, then approve or deny, and tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import decide, records, requests

from .election import Election
from .errors import CONFLICT, NOT_FOUND, ClusterError
from .report import Report, now

if TYPE_CHECKING:
    from .cluster import Cluster

#: What kubeadm lets the controller manager approve by itself (kubeadm, phases/bootstraptoken/node).
BINDINGS = ("kubeadm:node-autoapprove-bootstrap", "kubeadm:node-autoapprove-certificate-rotation")
_GUARD_SECONDS = 10
_CONDITIONS = {decide.Verdict.APPROVE: "Approved", decide.Verdict.DENY: "Denied"}


@dataclass(frozen=True)
class Settings:
    """What the role says. ``member`` is this host's name; the rest are seconds."""

    member: str
    poll_seconds: float
    wait_seconds: float
    lease_seconds: int


class Approver:
    """The approver on one member of a control plane."""

    def __init__(self, cluster: Cluster, election: Election, report: Report, settings: Settings) -> None:
        self._cluster, self._election, self._report, self._settings = cluster, election, report, settings
        self._guarded = -float(_GUARD_SECONDS)

    def look(self) -> None:
        """Look once. An API that does not answer, or refuses, is told and looked at again."""
        try:
            waiting = self._act() if self._election.hold() else []
        except ClusterError as error:
            self._report.trouble(str(error))
            return
        self._report.looked(self._election.holder, waiting)

    def _act(self) -> list[str]:
        self._guard()
        waiting = []
        for resource in self._cluster.requests():
            request = requests.read(resource)
            if not request.is_ours or request.is_decided:
                continue
            if not self._election.is_leader:
                break
            self._report.notify("WATCHDOG=1")
            try:
                if self._judge(resource, request) is decide.Verdict.WAIT:
                    waiting.append(request.name)
            except ClusterError as error:
                if error.status not in (CONFLICT, NOT_FOUND):
                    raise
                # Somebody else changed it meanwhile; the next look has what it is now.
        return waiting

    def _guard(self) -> None:
        """Take kubeadm's own approval away again: an upgrade by kubeadm brings it back."""
        if time.monotonic() - self._guarded < _GUARD_SECONDS:
            return
        removed = self._cluster.remove_bindings(BINDINGS)
        if removed:
            self._report.bindings(removed)
        self._guarded = time.monotonic()

    def _judge(self, resource: dict[str, Any], request: requests.Request) -> decide.Verdict:
        # Read anew for each: what was approved a moment ago stands in them.
        maps = {each["metadata"]["name"]: each for each in self._cluster.records()}
        known = {}
        for name, each in maps.items():
            try:
                known[name] = records.read(each)
            except records.RecordError as error:
                self._report.line("record", node=name, message=str(error))
        name = decide.node_name(request)
        node = self._cluster.node(name) if name else None
        moment = datetime.now(UTC)
        decision = decide.decide(request, known, _state(node), moment, self._settings.wait_seconds)
        if decision.verdict not in _CONDITIONS:
            return decision.verdict
        if decision.record is not None:
            kept = maps[decision.record.name]
            self._cluster.keep_record({**kept, **_KIND, "data": records.written(decision.record)})
        self._cluster.decide(_decided(resource, decision))
        self._tell(resource, request, decision)
        return decision.verdict

    def _tell(self, resource: dict[str, Any], request: requests.Request, decision: decide.Decision) -> None:
        asked = decision.asked
        self._report.decision(
            verdict=decision.verdict.value,
            reason=decision.reason,
            message=decision.message,
            request=request.name,
            node=decision.node,
            user=request.user,
            signer=request.signer,
            names=list(asked.names) if asked else [],
            addresses=list(asked.addresses) if asked else [],
            key=asked.key if asked else "",
        )
        try:
            self._cluster.tell(_event(resource, decision, self._settings.member))
        except ClusterError as error:
            self._report.line("event", request=request.name, message=str(error))


#: The API leaves both out of the parts of a list.
_KIND = {"apiVersion": "v1", "kind": "ConfigMap"}


def _state(node: Mapping[str, Any] | None) -> decide.NodeState | None:
    if node is None:
        return None
    status = node.get("status") or {}
    conditions = status.get("conditions") or []
    is_ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return decide.NodeState(str((status.get("nodeInfo") or {}).get("machineID") or ""), is_ready)


def _decided(resource: dict[str, Any], decision: decide.Decision) -> dict[str, Any]:
    """Return the request with the condition that says what became of it."""
    condition = {
        "type": _CONDITIONS[decision.verdict],
        "status": "True",
        "reason": decision.reason,
        "message": decision.message,
        "lastUpdateTime": now(),
    }
    status = resource.get("status") or {}
    return {
        **resource,
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "status": {**status, "conditions": [*(status.get("conditions") or []), condition]},
    }


def _event(resource: dict[str, Any], decision: decide.Decision, member: str) -> dict[str, Any]:
    metadata = resource["metadata"]
    moment = now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # Of something that is in no namespace, events are in this one.
        "metadata": {"generateName": f"{metadata['name'][:200].rstrip('.-')}.", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": "Normal" if decision.verdict is decide.Verdict.APPROVE else "Warning",
        "reason": decision.reason,
        "message": decision.message[:1000],
        "source": {"component": "vllmd-node-approver", "host": member},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
