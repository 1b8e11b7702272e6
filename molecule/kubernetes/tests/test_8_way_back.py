"""The way back: kubeadm's own approval is there again, nothing of the approver is; then the approver comes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.drill
testinfra_hosts = ["ansible://control1"]
BINDINGS = ("kubeadm:node-autoapprove-bootstrap", "kubeadm:node-autoapprove-certificate-rotation")
FILES = ("/etc/systemd/system/vllmd-node-approver.service", "/etc/vllmd/control-plane-controller/approver.conf")


def bindings(cluster: Any) -> set[str]:
    found = cluster.kubectl("get", "clusterrolebindings", "--ignore-not-found", "--output=name", *BINDINGS)
    return {line.partition("/")[2] for line in found.split()}


def test_kubeadms_own_approval_comes_back(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    assert bindings(cluster) == set()
    records = cluster.get("--namespace=vllmd-registration", "configmaps")["items"]
    gone = converge_again({"control_plane_controller_state": "absent"})
    assert gone.returncode == 0, gone.output
    assert bindings(cluster) == set(BINDINGS)
    assert not [path for path in FILES if host.file(path).exists]
    assert "vllmd-registration" not in cluster.kubectl("get", "namespaces", "--output=name")
    again = converge_again({"control_plane_controller_state": "absent"})
    assert (again.returncode, again.changed) == (0, 0), again.output

    back = converge_again({})
    assert back.returncode == 0, back.output
    assert bindings(cluster) == set()
    # What join.yml would write again for each node.
    for record in records:
        metadata = {key: record["metadata"][key] for key in ("name", "namespace")}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": record["data"]})
