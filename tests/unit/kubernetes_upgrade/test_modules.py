"""A node rests and comes back, and an upgrade is recorded, against a kubectl that keeps a cluster in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import rotation
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade.cluster import CORDONED
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_node_rest, kubernetes_upgrade

KUBECTL = """#!{python} -IS
import json, sys
path = {path!r}
arguments = sys.argv[3:]
cluster = json.load(open(path))
nodes = {{node["metadata"]["name"]: node for node in cluster["nodes"]}}
verb = arguments[0]
if arguments[:2] == ["get", "nodes"]:
    print(json.dumps({{"items": cluster["nodes"]}}))
elif arguments[:2] == ["get", "node"]:
    if arguments[2] not in nodes:
        sys.exit("Error from server (NotFound): nodes not found")
    print(json.dumps(nodes[arguments[2]]))
elif arguments[0] == "--namespace=kube-system":
    print(json.dumps({{"items": cluster["pods"]}}) if arguments[2] == "pods" else cluster["configuration"])
elif arguments[:2] == ["get", "poddisruptionbudgets"]:
    print(json.dumps({{"items": cluster["budgets"]}}))
elif arguments[0] == "--namespace":
    print(json.dumps({{"metadata": {{"labels": {{"app": "web"}}}}}}))
elif verb == "annotate":
    annotations = nodes[arguments[2]]["metadata"].setdefault("annotations", {{}})
    key, equals, value = arguments[-1].partition("=")
    if equals:
        annotations[key] = value
    else:
        annotations.pop(key.removesuffix("-"), None)
elif verb == "drain":
    nodes[arguments[1]]["spec"]["unschedulable"] = True
    if cluster["stuck"]:
        print('error when evicting pods/"web-1" -n "shop" (will retry): it would violate the disruption budget.')
        json.dump(cluster, open(path, "w"))
        sys.exit("error: drain did not complete within 1s")
elif verb == "uncordon":
    nodes[arguments[1]]["spec"].pop("unschedulable", None)
json.dump(cluster, open(path, "w"))
"""
BUDGET = {
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"selector": {"matchLabels": {"app": "web"}}},
    "status": {"disruptionsAllowed": 0},
}


class World:
    """A cluster of one member and one node."""

    def __init__(self, directory: Path) -> None:
        self.path, self.program = directory / "cluster.json", directory / "kubectl"
        self.program.write_text(KUBECTL.format(python=sys.executable, path=str(self.path)))
        self.program.chmod(0o755)
        self.put(nodes=[self.node("control-1", member=True), self.node("gpu-1")])

    @staticmethod
    def node(name: str, version: str = "v1.33.4", member: bool = False) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "labels": {"node-role.kubernetes.io/control-plane": ""} if member else {}},
            "spec": {},
            "status": {
                "nodeInfo": {"kubeletVersion": version},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    def put(self, **more: Any) -> None:
        empty = {"pods": [], "budgets": [BUDGET], "stuck": False, "configuration": "kubernetesVersion: v1.33.4"}
        before = json.loads(self.path.read_text()) if self.path.exists() else empty
        self.path.write_text(json.dumps({**before, **more}))

    def one(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text())
        return next(node for node in found["nodes"] if node["metadata"]["name"] == name)

    def rest(self, state: str, check: bool = False, timeout: int = 1) -> dict[str, Any]:
        params = {"name": "gpu-1", "version": "1.34.1", "timeout": timeout, "delete_emptydir_data": True}
        params |= {"kubectl": str(self.program), "kubeconfig": "/admin.conf"}
        rest = kubernetes_node_rest.Rest(SimpleNamespace(params=params, check_mode=check))
        return rest.drained() if state == "drained" else rest.returned()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_node_rests_and_comes_back(world: World) -> None:
    assert world.rest("drained", check=True)["changed"]
    assert world.one("gpu-1")["spec"] == {}
    assert world.rest("drained") == {"changed": True, "left": ""}
    assert world.one("gpu-1")["spec"] == {"unschedulable": True}
    assert world.one("gpu-1")["metadata"]["annotations"] == {CORDONED: "v1.34.1"}
    with pytest.raises(NodeError, match=r"instead of v1[.]34[.]1 after 1 s; it stays cordoned"):
        world.rest("returned")
    new = world.one("gpu-1")
    new["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.1"
    world.put(nodes=[new])
    assert world.rest("returned") == {"changed": True, "left": ""}
    assert world.one("gpu-1")["spec"] == {}
    assert world.one("gpu-1")["metadata"]["annotations"] == {}
    assert world.rest("returned") == {"changed": False, "left": ""}


def test_a_cordon_of_somebody_else_is_left(world: World) -> None:
    node = world.node("gpu-1", "v1.34.1")
    node["spec"]["unschedulable"] = True
    world.put(nodes=[node])
    for state in ("drained", "returned"):
        assert world.rest(state) == {"changed": False, "left": "somebody has cordoned it"}
    assert world.one("gpu-1") == node


def test_a_budget_that_holds_is_named_and_the_node_takes_pods_again(world: World) -> None:
    world.put(stuck=True)
    with pytest.raises(NodeError, match=r"a PodDisruptionBudget \(shop/web\) holds shop/web-1"):
        world.rest("drained")
    assert world.one("gpu-1")["spec"] == {}
    assert world.one("gpu-1")["metadata"]["annotations"] == {}


def test_a_node_that_is_not_there_is_said(world: World) -> None:
    world.put(nodes=[])
    with pytest.raises(NodeError, match="the cluster has no node gpu-1"):
        world.rest("drained")


def plan(world: World, tmp_path: Path, version: str = "1.34.1") -> dict[str, Any]:
    given = {
        "version": version,
        "hosts": {"control-1": "control-1", "gpu-1": "gpu-1"},
        "batch": "1",
        "record": str(tmp_path / "upgrade.json"),
    }
    return kubernetes_upgrade.make_plan(given, Kubectl(str(world.program), "/admin.conf"))


def test_the_module_plans(world: World, tmp_path: Path) -> None:
    result = plan(world, tmp_path)
    assert [step["node"] for step in result["members"]] == ["control-1"]
    assert [step["node"] for step in result["nodes"]] == ["gpu-1"]
    assert (result["size"], result["changed"]) == (1, False)


def test_another_upgrade_has_to_end_first(world: World, tmp_path: Path) -> None:
    kubernetes_upgrade.save(tmp_path / "upgrade.json", {"version": "v1.33.9", "steps": []})
    with pytest.raises(NodeError, match=r"an upgrade to v1[.]33[.]9 has not ended"):
        plan(world, tmp_path)


@pytest.mark.parametrize("authority", ["etcd", ""])
def test_nothing_is_upgraded_while_an_authority_is_replaced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: str
) -> None:
    kept = tmp_path / "rotation"
    monkeypatch.setattr(kubernetes_upgrade, "ROTATION", kept)
    assert plan(world, tmp_path)["members"]
    kept.mkdir()
    if authority:  # else it was interrupted before it kept which one
        (kept / "member.json").write_bytes(rotation.Record(authority, "trust", "old", "new", 0.0).text())
    with pytest.raises(NodeError) as refused:
        plan(world, tmp_path)
    assert f"rotate_authority={authority or 'kubernetes'}, or take it back" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_record_that_cannot_be_read_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "upgrade.json").write_text("{")
    with pytest.raises(NodeError, match="cannot be read as the record of an upgrade"):
        plan(world, tmp_path)


def test_giving_up_lets_the_nodes_take_pods_again(world: World, tmp_path: Path) -> None:
    world.rest("drained")
    kubernetes_upgrade.save(tmp_path / "upgrade.json", {"version": "v1.34.1", "steps": []})
    module = SimpleNamespace(params={"record": str(tmp_path / "upgrade.json")}, check_mode=False)
    kubectl = Kubectl(str(world.program), "/admin.conf")
    assert kubernetes_upgrade.abort(module, kubectl)["returned"] == ["gpu-1"]
    assert world.one("gpu-1")["spec"] == {}
    assert not (tmp_path / "upgrade.json").exists()
    assert kubernetes_upgrade.abort(module, kubectl) == {"changed": False, "returned": []}
