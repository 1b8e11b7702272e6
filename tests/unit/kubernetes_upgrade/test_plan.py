"""An upgrade goes one minor version at a time, members first, and goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import Version, parse
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_upgrade import cluster, drain, kubeadm, plan

OLD, NEW = parse("1.33.4"), parse("1.34.1")


def node(name: str, kubelet: Version = OLD, **more: Any) -> cluster.Node:
    fields = {"is_member": name.startswith("control"), "is_ready": True, "is_cordoned": False, "cordoned_for": ""}
    plane = {"control_plane": kubelet} if fields["is_member"] else {}
    return cluster.Node(name=name, kubelet=kubelet, **{**fields, **plane, **more})


def a_cluster(*nodes: cluster.Node, version: Version = OLD) -> cluster.Cluster:
    return cluster.Cluster(version, nodes)


THREE = (node("control-1"), node("control-2"), node("control-3"))
WORKERS = tuple(node(f"gpu-{number}") for number in range(1, 6))


def made(found: cluster.Cluster, target: Version = NEW, batch: str = "2", without: tuple[str, ...] = ()) -> plan.Plan:
    hosts = {each.name: f"{each.name}.example" for each in found.nodes if each.name not in without}
    return plan.make(found, target, hosts, list(hosts.values()), batch)


def test_members_come_first_and_nodes_by_batches() -> None:
    found = made(a_cluster(*THREE, *WORKERS))
    assert [(step.host, step.control_plane, step.kubelet) for step in found.members] == [
        ("control-1.example", "apply", True),
        ("control-2.example", "node", True),
        ("control-3.example", "node", True),
    ]
    assert [[step.node for step in batch] for batch in found.batches] == [
        ["gpu-1", "gpu-2"],
        ["gpu-3", "gpu-4"],
        ["gpu-5"],
    ]
    assert plan.lines(found, OLD, NEW)[:2] == [
        "v1.33.4 to v1.34.1",
        "member 1 of 3: control-1, control plane and kubelet",
    ]


def test_a_cluster_that_has_the_version_is_left_alone() -> None:
    new = [replace(each, kubelet=NEW, control_plane=NEW if each.is_member else None) for each in (*THREE, *WORKERS)]
    found = made(a_cluster(*new, version=NEW))
    assert found.is_done
    assert plan.lines(found, NEW, NEW)[0].startswith("nothing to do")


def test_an_upgrade_goes_on_after_its_second_member() -> None:
    done = replace(THREE[0], kubelet=NEW, control_plane=NEW)
    half = replace(THREE[1], control_plane=NEW, cordoned_for=str(NEW), is_cordoned=True)
    found = made(a_cluster(done, half, THREE[2], *WORKERS, version=NEW))
    assert [(step.node, step.control_plane, step.kubelet) for step in found.members] == [
        ("control-2", "", True),
        ("control-3", "node", True),
    ]


def test_an_apply_that_was_interrupted_is_made_again() -> None:
    half = replace(THREE[0], control_plane=NEW)
    assert made(a_cluster(half, *THREE[1:])).members[0].control_plane == "apply"


def test_a_node_that_was_begun_is_ended_first() -> None:
    begun = replace(WORKERS[3], cordoned_for=str(NEW), is_cordoned=True, is_ready=False, kubelet=NEW)
    found = made(a_cluster(*THREE, *WORKERS[:3], begun, WORKERS[4]), batch="1")
    assert [batch[0].node for batch in found.batches][:2] == ["gpu-4", "gpu-1"]


def test_who_is_left_alone_is_said() -> None:
    nodes = [
        replace(WORKERS[0], is_cordoned=True),
        replace(WORKERS[1], is_ready=False),
        *WORKERS[2:],
    ]
    found = made(a_cluster(*THREE, *nodes), without=("gpu-3",))
    assert found.left == {
        "gpu-1": "somebody has cordoned it",
        "gpu-2": "it is not ready",
        "gpu-3": "it is no host of this run",
    }
    assert [[step.node for step in batch] for batch in found.batches] == [["gpu-4", "gpu-5"]]
    assert "left alone: gpu-1, somebody has cordoned it" in plan.lines(found, OLD, NEW)


def test_a_cordoned_member_gets_its_control_plane_and_keeps_its_kubelet() -> None:
    found = made(a_cluster(THREE[0], replace(THREE[1], is_cordoned=True), THREE[2]))
    assert (found.members[1].control_plane, found.members[1].kubelet, found.members[1].drain) == ("node", False, False)


@pytest.mark.parametrize(
    ("nodes", "target", "why"),
    [
        (THREE, "1.35.0", "v1.33.4 to v1.35.0 skips a minor version; upgrade to 1.34 first"),
        (THREE, "2.34.0", "skips a minor version"),
        (THREE, "1.33.3", "kubeadm does not go back to v1.33.3"),
        (WORKERS, "1.34.1", "no node is marked as one of the control plane"),
        ((replace(THREE[0], is_ready=False),), "1.34.1", "member control-1 is not ready; put it right first"),
        ((*THREE, node("gpu-1", parse("1.34.2"))), "1.34.1", "kubelet v1.34.2, newer than v1.34.1"),
        ((*THREE, node("gpu-1", parse("1.32.0"))), "1.34.1", "end that upgrade first (upgrade_version=1.33.4)"),
        (
            (*THREE, node("gpu-1", parse("1.30.9"), is_cordoned=True)),
            "1.34.1",
            "is left alone (somebody has cordoned it) with a kubelet v1.30.9, too old for API servers of v1.34.1",
        ),
    ],
)
def test_it_is_refused_in_one_line(nodes: tuple[cluster.Node, ...], target: str, why: str) -> None:
    with pytest.raises(NodeError) as error:
        made(a_cluster(*nodes), parse(target))
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_member_that_the_inventory_does_not_know_is_refused() -> None:
    with pytest.raises(NodeError, match="member control-3 is no host of the inventory"):
        made(a_cluster(*THREE), without=("control-3",))


def test_a_host_that_is_no_node_is_refused() -> None:
    hosts = {"control-1": "control-1", "gpu-9": "gpu-9"}
    assert plan.refusals(a_cluster(THREE[0]), NEW, hosts) == [
        "host gpu-9 is no node of the cluster; join it, or take it out of this run (--limit)"
    ]


def test_one_upgrade_at_a_time() -> None:
    hosts = {each.name: each.name for each in THREE}
    found = a_cluster(*THREE)
    assert not plan.refusals(found, NEW, hosts, str(NEW))
    assert (
        "an upgrade to v1.33.9 has not ended; end it first (upgrade_version=1.33.9)"
        in (plan.refusals(found, NEW, hosts, "v1.33.9")[0])
    )


def test_a_cordoned_node_may_stay_behind_as_far_as_kubelets_may() -> None:
    behind = node("gpu-1", parse("1.31.0"), is_cordoned=True)
    assert made(a_cluster(*THREE, behind)).left == {"gpu-1": "somebody has cordoned it"}
    assert plan.kubelet_skew(parse("1.27.0")) == 2


def test_a_patch_release_upgrades_nodes_that_are_a_minor_behind() -> None:
    found = made(a_cluster(*THREE, node("gpu-1", parse("1.32.0"))), parse("1.33.5"))
    assert [step.node for step in found.batches[0]] == ["gpu-1"]


@pytest.mark.parametrize(
    ("text", "count", "size"), [("1", 9, 1), ("3", 2, 3), ("10%", 5, 1), ("50%", 9, 4), ("100%", 7, 7)]
)
def test_a_batch_is_a_number_or_a_share(text: str, count: int, size: int) -> None:
    assert plan.batch_size(text, count) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "0%", "101%", "two", "1.5", "%", "1%%"])
def test_a_batch_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(NodeError, match="runtime_controller_upgrade_batch"):
        plan.batch_size(text, 5)


KINDS = st.sampled_from(["plain", "done", "begun", "cordoned", "not ready"])


@given(st.lists(KINDS, min_size=1, max_size=3), st.lists(KINDS, max_size=8), st.sampled_from(["1", "2", "50%"]))
def test_a_cordon_of_somebody_else_is_never_touched_and_nobody_twice(
    members: list[str], workers: list[str], batch: str
) -> None:
    def one(name: str, kind: str) -> cluster.Node:
        kubelet = NEW if kind == "done" else OLD
        mine = {"cordoned_for": str(NEW), "is_cordoned": True} if kind == "begun" else {}
        more = {"is_cordoned": True} if kind == "cordoned" else mine
        return node(name, kubelet, is_ready=kind != "not ready", **more)

    nodes = [one(f"control-{number}", kind) for number, kind in enumerate(members)]
    nodes += [one(f"gpu-{number}", kind) for number, kind in enumerate(workers)]
    found = a_cluster(*nodes, version=NEW if "done" in members else OLD)
    try:
        result = made(found, NEW, batch)
    except NodeError as error:
        assert "not ready" in members, error
        return
    steps = [*result.members, *(step for each in result.batches for step in each)]
    assert len({step.node for step in steps}) == len(steps)
    drained = {step.node for step in steps if step.drain}
    assert not drained & {each.name for each in nodes if each.is_cordoned and not each.cordoned_for}
    assert {each.name for each in nodes if each.cordoned_for} <= drained
    assert [step.control_plane for step in result.members].count("apply") == (0 if "done" in members else 1)


def item(name: str, kubelet: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {cluster.CORDONED: "v1.34.1"} if labels else None},
        "spec": {"unschedulable": True} if labels else {},
        "status": {
            "nodeInfo": {"kubeletVersion": kubelet},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(node_name: str, component: str, image: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"component": component, "tier": "control-plane"}},
        "spec": {"nodeName": node_name, "containers": [{"image": image}]},
    }


def test_the_cluster_is_read_from_the_api_servers_objects() -> None:
    nodes = {
        "items": [item("gpu-1", "v1.33.4"), item("control-1", "v1.33.4", **{"node-role.kubernetes.io/master": ""})]
    }
    pods = {
        "items": [
            pod("control-1", "kube-apiserver", "registry.example.com:5000/kube-apiserver:v1.34.1"),
            pod("control-1", "kube-scheduler", "registry.example.com:5000/kube-scheduler:v1.33.4"),
            pod("control-1", "etcd", "registry.example.com:5000/etcd:3.5.21-0"),
        ]
    }
    found = cluster.read(nodes, pods, "apiVersion: kubeadm.k8s.io/v1beta4\nkubernetesVersion: v1.33.4\n")
    assert found.version == OLD
    assert found.members == (node("control-1", is_cordoned=True, cordoned_for="v1.34.1", control_plane=OLD),)
    assert found.nodes[1] == node("gpu-1")


def test_a_cluster_that_kubeadm_did_not_make_is_refused() -> None:
    with pytest.raises(NodeError, match="names no version"):
        cluster.read({"items": []}, {"items": []}, "")


REASON = "(will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget."
SAID = f"""evicting pod default/web-1
error when evicting pods/"web-1" -n "shop" {REASON}
error when evicting pods/"web-1" -n "shop" {REASON}
error when evicting pod "db-0" {REASON}
There are pending nodes to be drained: gpu-1
error: drain did not complete within 5s
"""


def test_the_pods_that_hold_a_drain_are_named_with_their_budget() -> None:
    assert drain.held(SAID) == [("default", "db-0"), ("shop", "web-1")]
    budget = {
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": 0},
    }
    other = {
        **budget,
        "metadata": {"namespace": "shop", "name": "other"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}},
    }
    free = {**budget, "metadata": {"namespace": "shop", "name": "free"}, "status": {"disruptionsAllowed": 1}}
    labels = {("shop", "web-1"): {"app": "web", "tier": "front"}}
    names = drain.budgets(drain.held(SAID), labels, [budget, other, free])
    assert names == ["shop/web"]
    said = drain.why("gpu-1", SAID, "drain did not complete", names)
    assert "a PodDisruptionBudget (shop/web) holds default/db-0, shop/web-1; let more replicas run" in said
    assert drain.why("gpu-1", "", "no route") == "node gpu-1 cannot be drained: no route"


@pytest.mark.parametrize(
    ("what", "version", "words"),
    [
        ("plan", "1.34.1", "kubeadm upgrade plan v1.34.1 --ignore-preflight-errors=NumCPU"),
        ("apply", "1.34.1", "kubeadm upgrade apply v1.34.1 --yes --patches=/p --ignore-preflight-errors=NumCPU"),
        ("node", "1.34.1", "kubeadm upgrade node --patches=/p --ignore-preflight-errors=NumCPU"),
        ("node", "1.20.3", "kubeadm upgrade node --ignore-preflight-errors=NumCPU"),
    ],
)
def test_kubeadm_is_called_as_its_version_wants_it(what: str, version: str, words: str) -> None:
    assert " ".join(kubeadm.argv(what, parse(version), "/p", ["NumCPU"])) == words


def test_kubeadms_own_errors_are_the_reason() -> None:
    said = """[preflight] Some fatal errors occurred:
	[ERROR CoreDNSMigration]: CoreDNS will not be upgraded
	[ERROR ControlPlaneNodesReady]: there are NotReady control-planes
[preflight] If you know what you are doing, you can make a check non-fatal
To see the stack trace of this error execute with --v=5 or higher
"""
    assert kubeadm.reason(said) == (
        "CoreDNS will not be upgraded (CoreDNSMigration); there are NotReady control-planes (ControlPlaneNodesReady)"
    )
    assert (
        kubeadm.reason("[upgrade/apply] FATAL: x\nTo see the stack trace of this error") == "[upgrade/apply] FATAL: x"
    )
    assert kubeadm.reason("") == "it said nothing"
