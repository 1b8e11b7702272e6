"""``vllmdctl nodes``: what a row says of a node, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllmdctl.commands.nodes import rows
from vllmdctl.errors import FAILED, USAGE

from .conftest import Ctl

SERVING = "kubernetes.io/kubelet-serving"


def node(name: str, ready: str = "True", **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.33.1"}},
    }


def record(name: str, **identity: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"identity": json.dumps({"node": name, **identity})}}


def request(name: str, user: str, created: str, *conditions: dict[str, str], signer: str = SERVING) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"username": user, "signerName": signer},
        "status": {"conditions": list(conditions)} if conditions else {},
    }


def test_each_row_says_what_the_cluster_and_the_record_know() -> None:
    denied = {"type": "Denied", "reason": "ForeignNames", "message": "x.example.com: not given to node gpu-2"}
    found = rows(
        [node("gpu-1"), node("gpu-2", "False", unschedulable=True)],
        [
            record("gpu-1"),
            record("gpu-3", left="2030-01-01T00:00:00Z", token_id="abcdef"),
            {"metadata": {"name": "gpu-4"}},
        ],
        [
            request("csr-1", "system:node:gpu-1", "1", denied),
            request("csr-2", "system:node:gpu-1", "2", {"type": "Approved"}),
            request("csr-3", "system:node:gpu-2", "1", denied),
            request("csr-4", "system:bootstrap:abcdef", "1"),
            request("csr-5", "system:bootstrap:zzzzzz", "1"),
            request("csr-6", "kubernetes-admin", "1"),
            request("csr-7", "system:node:gpu-2", "9", signer="example.com/other"),
        ],
    )
    shown = {row.pop("node"): tuple(row.values()) for row in found}
    assert shown == {
        "gpu-1": ("ready", "v1.33.1", "yes", None, None),
        "gpu-2": ("not ready, cordoned", "v1.33.1", "no", "csr-3", f"denied: {denied['message']}"),
        "gpu-3": ("absent", None, "left 2030-01-01T00:00:00Z", "csr-4", "waits"),
        "gpu-4": ("absent", None, "no", None, None),
        "(token zzzzzz)": ("absent", None, "no", "csr-5", "waits"),
    }


def test_a_damaged_record_is_said_to_be_one() -> None:
    (row,) = rows([], [{"metadata": {"name": "gpu-1"}, "data": {"identity": "{"}}], [])
    assert row["registered"] == "damaged"


@pytest.fixture
def cluster(inventory: Path) -> Path:
    """The inventory with a node."""
    (inventory / "nodes.yml").write_text("kubernetes_nodes: {hosts: {gpu-01: {}}}\n")
    return inventory


@pytest.mark.parametrize("verb", ["join", "leave"])
def test_a_host_that_is_no_node_is_refused(ctl: Ctl, cluster: Path, verb: str) -> None:
    done = ctl("nodes", verb, "gpu-02")
    assert (done.returncode, "no host 'gpu-02' in group kubernetes_nodes; did you mean gpu-01?" in done.stderr) == (
        USAGE,
        True,
    )


def test_leaving_asks_first(ctl: Ctl, cluster: Path) -> None:
    done = ctl("nodes", "leave", "gpu-01")
    assert (done.returncode, "Drain and delete gpu-01?" in done.stderr) == (FAILED, True)


def test_approving_wants_a_reason(ctl: Ctl, cluster: Path) -> None:
    assert ctl("nodes", "approve", "csr-1").returncode == USAGE
    done = ctl("nodes", "approve", "csr-1", "--why", " ")
    assert (done.returncode, "--why is empty" in done.stderr) == (USAGE, True)
