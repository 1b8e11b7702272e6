"""Modules that talk to a cluster, against a kubectl that keeps one node and its secrets in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_drain, kubernetes_labels, kubernetes_token

MACHINE = "0123456789abcdef0123456789abcdef"
KUBECTL = """#!{python} -IS
import json, os, sys
root = {root!r}
arguments = sys.argv[3:]
with open(root + "/calls", "a") as calls:
    print(*arguments, file=calls)
def load():
    with open(root + "/cluster.json") as stream:
        return json.load(stream)
def save(cluster):
    with open(root + "/cluster.json", "w") as stream:
        json.dump(cluster, stream)
cluster = load()
node = cluster["node"]
if arguments[:2] == ["get", "node"]:
    if node is None:
        sys.exit('Error from server (NotFound): nodes "gpu-1" not found')
    print(json.dumps(node))
elif arguments[0] == "label":
    for each in arguments[4:]:
        key, equals, value = each.partition("=")
        if equals:
            node["metadata"]["labels"][key] = value
        else:
            del node["metadata"]["labels"][key.removesuffix("-")]
    save(cluster)
elif arguments[0] == "drain":
    node["spec"]["unschedulable"] = True
    save(cluster)
    if cluster["stuck"]:
        sys.exit("error: Cannot evict pod as it would violate the pod's disruption budget.")
elif arguments[0] == "uncordon":
    del node["spec"]["unschedulable"]
    save(cluster)
elif arguments[:2] == ["delete", "node"]:
    cluster["node"] = None
    save(cluster)
elif arguments[0] == "create":
    secret = json.load(sys.stdin)
    cluster["secrets"][secret["metadata"]["name"]] = secret
    save(cluster)
elif arguments[:2] == ["delete", "secret"]:
    if cluster["secrets"].pop(arguments[2], None):
        print("deleted")
    save(cluster)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, root=str(tmp_path)))
    program.chmod(0o755)
    (tmp_path / "kubelet.conf").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    put(tmp_path)
    return tmp_path


def put(root: Path, **changes: Any) -> None:
    node = {
        "metadata": {
            "name": "gpu-1",
            "labels": {"kubernetes.io/hostname": "gpu-1", "accelerator.vllmd.com/count": "8"},
        },
        "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {
            "nodeInfo": {"machineID": MACHINE},
            "conditions": [{"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}],
        },
    }
    (root / "cluster.json").write_text(json.dumps({"node": node, "secrets": {}, "stuck": False, **changes}))


def state(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "cluster.json").read_text())
    return found


def label(root: Path, labels: dict[str, str], check: bool = False, **given: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "gpu-1",
        "labels": labels,
        "taints": [],
        "wait": 5,
        "kubeconfig": str(root / "kubelet.conf"),
        "record": str(root / "record/labels.json"),
    }
    return kubernetes_labels.bring(SimpleNamespace(check_mode=check), {**values, **given})


def test_labels_are_set_kept_and_taken_away(cluster: Path) -> None:
    wanted = {"accelerator.vllmd.com/count": "4", "vllmd.com/rack": "r1"}
    assert label(cluster, wanted, check=True)["changed"]
    assert state(cluster)["node"]["metadata"]["labels"]["accelerator.vllmd.com/count"] == "8"
    result = label(cluster, wanted, taints=[{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}])
    assert (result["changed"], result["ready"], result["taints_differ"]) == (True, True, ["b=:NoExecute"])
    assert result["diff"]["before"] == "accelerator.vllmd.com/count=8\n"
    assert state(cluster)["node"]["metadata"]["labels"] == {"kubernetes.io/hostname": "gpu-1", **wanted}
    assert not label(cluster, wanted)["changed"]
    label(cluster, {})
    assert state(cluster)["node"]["metadata"]["labels"] == {"kubernetes.io/hostname": "gpu-1"}


def test_a_node_that_does_not_get_ready_says_why(cluster: Path) -> None:
    node = state(cluster)["node"]
    node["status"]["conditions"] = [{"type": "Ready", "status": "False", "message": "cni plugin not initialized"}]
    put(cluster, node=node)
    with pytest.raises(NodeError, match="not ready after 1 s: cni plugin not initialized"):
        label(cluster, {}, wait=1)
    assert label(cluster, {"vllmd.com/a": "1"}, wait=0)["ready"] is False


def drain(root: Path, check: bool = False, **given: Any) -> bool:
    values: dict[str, Any] = {
        "name": "gpu-1",
        "machine_id": MACHINE,
        "kubeconfig": "/admin.conf",
        "kubectl": "kubectl",
        "timeout": 30,
        "delete_emptydir_data": True,
    }
    return kubernetes_drain.take_out(SimpleNamespace(check_mode=check, params={**values, **given}))


def test_a_node_is_drained_then_deleted_once(cluster: Path) -> None:
    assert drain(cluster, check=True)
    assert state(cluster)["node"]
    assert drain(cluster)
    assert state(cluster)["node"] is None
    assert not drain(cluster)
    verbs = [line.split()[0] for line in (cluster / "calls").read_text().splitlines()]
    assert verbs == ["get", "get", "drain", "delete", "get"]


def test_a_drain_that_does_not_end_leaves_the_node_as_it_was(cluster: Path) -> None:
    put(cluster, stuck=True)
    with pytest.raises(NodeError, match="disruption budget"):
        drain(cluster)
    assert "unschedulable" not in state(cluster)["node"]["spec"]


def test_an_administrators_cordon_stays(cluster: Path) -> None:
    node = state(cluster)["node"]
    node["spec"]["unschedulable"] = True
    put(cluster, node=node, stuck=True)
    with pytest.raises(NodeError):
        drain(cluster)
    assert state(cluster)["node"]["spec"]["unschedulable"]


def test_somebody_elses_node_of_the_same_name_stays(cluster: Path) -> None:
    with pytest.raises(NodeError, match="is another machine"):
        drain(cluster, machine_id="f" * 32)
    assert state(cluster)["node"]


def test_a_token_comes_by_standard_input_and_goes(cluster: Path) -> None:
    kubectl = kubernetes_token.Kubectl("kubectl", "/admin.conf")
    token = kubernetes_token.make(kubectl, {"minutes": 15, "description": "for gpu-1", "node": None})
    identity, _dot, rest = token.partition(".")
    assert list(state(cluster)["secrets"]) == [f"bootstrap-token-{identity}"]
    assert rest not in (cluster / "calls").read_text()
    assert kubernetes_token.revoke(kubectl, identity)
    assert state(cluster)["secrets"] == {}
    assert not kubernetes_token.revoke(kubectl, identity)


def test_a_kubectl_that_is_not_there(cluster: Path) -> None:
    with pytest.raises(NodeError, match="nothing is not installed"):
        drain(cluster, kubectl="nothing")
