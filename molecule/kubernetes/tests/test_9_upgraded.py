"""An upgrade goes node by node, leaves what somebody has cordoned, and goes on where it was stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playing import wait_for
from upgrading import Upgrade, next_release, next_version, noted, versions

testinfra_hosts = ["ansible://control_plane"]
pytestmark = pytest.mark.drill
NODES = ("control1", "node1", "node2")


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    """Runs the playbook with packages and images of the next patch release."""
    return next_release(tmp_path_factory.mktemp("next"), NODES)


def test_a_dry_run_says_the_plan_and_changes_nothing(cluster: Any, upgrade: Upgrade) -> None:
    before = versions(cluster)
    done = upgrade("--check")
    assert done.returncode == 0, done.stdout
    assert "member 1 of 1: control1, control plane and kubelet" in done.stdout
    assert "batch 2 of 2: node2" in done.stdout
    assert versions(cluster) == before


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.22.0", "skips a minor version; upgrade to 1.21 first"),
        ("1.19.16", "kubeadm does not go back to v1.19.16"),
        ("1.21", "is no version of Kubernetes; write all three parts"),
        ("", "upgrade_version is empty"),
    ],
)
def test_what_does_not_go_is_refused_in_one_line(upgrade: Upgrade, version: str, why: str) -> None:
    done = upgrade(upgrade_version=version)
    assert done.returncode != 0
    assert why in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


def test_a_disruption_budget_ends_it_and_the_node_takes_pods_again(cluster: Any, upgrade: Upgrade) -> None:
    cluster.run_pod("web", "node1", "sleep", "3600")
    cluster.kubectl("label", "pod", "web", "app=web", "--overwrite")
    budget = {
        "apiVersion": "policy/v1beta1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    cluster.apply(budget)
    cluster.kubectl("cordon", "node2")
    done = upgrade(runtime_controller_upgrade_drain_timeout=20)
    assert done.returncode != 0, done.stdout
    said = " ".join(done.stdout.split())
    assert "left alone: node2, somebody has cordoned it" in said
    assert "node node1 cannot be drained: a PodDisruptionBudget (default/web) holds default/web" in said
    new = f"v{next_version()}"
    assert versions(cluster) == {"control1": new, "node1": f"v{noted('version')}", "node2": f"v{noted('version')}"}
    assert "unschedulable" not in cluster.nodes()["node1"]["spec"]
    assert cluster.get("pod", "web")["status"]["phase"] == "Running"


def test_it_goes_on_and_leaves_the_cordoned_node(cluster: Any, host: Any, upgrade: Upgrade) -> None:
    cluster.kubectl("delete", "poddisruptionbudget", "web")
    done = upgrade()
    assert done.returncode == 0, done.stdout
    assert "member 1 of" not in done.stdout
    new, old = f"v{next_version()}", f"v{noted('version')}"
    assert versions(cluster) == {"control1": new, "node1": new, "node2": old}
    node = cluster.nodes()["node2"]
    assert node["spec"]["unschedulable"]
    record = json.loads(host.check_output("cat /var/lib/vllmd/runtime-controller/upgrade-ended.json"))
    assert [(step["node"], step["step"]) for step in record["steps"]] == [
        ("control1", "kubeadm upgrade apply"),
        ("control1", "kubelet"),
        ("node1", "kubeadm upgrade node"),
        ("node1", "kubeadm upgrade node"),
        ("node1", "kubelet"),
    ]


def test_a_stop_in_the_middle_is_gone_on_from(cluster: Any, upgrade: Upgrade) -> None:
    cluster.kubectl("uncordon", "node2")
    # As a run leaves it that was killed after its drain.
    cluster.kubectl("annotate", "node", "node2", f"vllmd.com/cordoned-for-upgrade=v{next_version()}")
    cluster.kubectl("cordon", "node2")
    done = upgrade()
    assert done.returncode == 0, done.stdout
    new = f"v{next_version()}"
    assert versions(cluster) == dict.fromkeys(NODES, new)
    node = cluster.nodes()["node2"]
    assert "unschedulable" not in node["spec"]
    assert "vllmd.com/cordoned-for-upgrade" not in node["metadata"]["annotations"]
    for name in NODES:
        wait_for(lambda name=name: cluster.is_ready(name), f"{name} is ready")


def test_a_cluster_that_has_the_version_is_left_alone(upgrade: Upgrade) -> None:
    done = upgrade()
    assert done.returncode == 0, done.stdout
    assert "nothing to do" in done.stdout


def test_the_control_plane_has_the_version(cluster: Any, host: Any) -> None:
    new = next_version()
    said = json.loads(cluster.kubectl("version", "--output=json"))
    assert said["serverVersion"]["gitVersion"] == f"v{new}"
    newest = json.loads(host.check_output("vllmd-etcd-snapshot --list"))[0]
    assert newest["reason"] == f"before the upgrade to {new}"
