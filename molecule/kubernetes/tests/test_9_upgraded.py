"""An upgrade goes node by node, leaves what somebody has cordoned, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra
from playing import ROOT, play, wait_for

testinfra_hosts = ["ansible://control_plane"]
pytestmark = pytest.mark.drill
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
SHARED = ROOT / "molecule/shared/kubernetes"
NODES = ("control1", "node1", "node2")


def noted(name: str) -> str:
    return (EPHEMERAL / f"kubernetes.{name}").read_text().strip()


def after(version: str) -> str:
    """The next patch release."""
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Packages and images of the next patch release; a function that runs the playbook with them."""
    directory, version = tmp_path_factory.mktemp("next"), after(noted("version"))
    programs = directory / "programs"

    def make(script: str, *arguments: Any) -> Path:
        command = [sys.executable, SHARED / script, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return Path(done.stdout.strip() or directory)

    make("next_version.py", noted("programs"), version, programs)
    packages = make("repository.py", programs, version, directory) / "packages"
    images = make("control_plane_images.py", programs, version, noted("tree"), directory)
    for path in images.glob("kube-*.tar"):
        # The hosts see this directory.
        (EPHEMERAL / "images" / f"next-{path.name}").write_bytes(path.read_bytes())
    # No registry is in reach.
    for name in NODES:
        host = testinfra.get_host(f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
        host.check_output(
            "for file in /srv/kubernetes/images/next-*.tar; do ctr --namespace=k8s.io images import $file; done"
        )
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in packages.glob("*.deb")]
    (packages / "SHA256SUMS").write_text("".join(sums))

    def run(*arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        given = {
            "upgrade_version": version,
            "kubernetes_node_packages_dir": str(packages),
            "kubernetes_node_repository": "",
            "runtime_controller_upgrade_ignore_preflight_errors": ["ImagePull"],
        }
        return play("upgrade", *arguments, **{**given, **variables})

    return run


def versions(cluster: Any) -> dict[str, str]:
    return {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in cluster.nodes().items()}


def test_a_dry_run_says_the_plan_and_changes_nothing(cluster: Any, upgrade: Any) -> None:
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
def test_what_does_not_go_is_refused_in_one_line(upgrade: Any, version: str, why: str) -> None:
    done = upgrade(upgrade_version=version)
    assert done.returncode != 0
    assert why in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


def test_a_disruption_budget_ends_it_and_the_node_takes_pods_again(cluster: Any, upgrade: Any) -> None:
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
    new = f"v{after(noted('version'))}"
    assert versions(cluster) == {"control1": new, "node1": f"v{noted('version')}", "node2": f"v{noted('version')}"}
    assert "unschedulable" not in cluster.nodes()["node1"]["spec"]
    assert cluster.get("pod", "web")["status"]["phase"] == "Running"


def test_it_goes_on_and_leaves_the_cordoned_node(cluster: Any, host: Any, upgrade: Any) -> None:
    cluster.kubectl("delete", "poddisruptionbudget", "web")
    done = upgrade()
    assert done.returncode == 0, done.stdout
    assert "member 1 of" not in done.stdout
    new, old = f"v{after(noted('version'))}", f"v{noted('version')}"
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


def test_a_stop_in_the_middle_is_gone_on_from(cluster: Any, upgrade: Any) -> None:
    cluster.kubectl("uncordon", "node2")
    # As a run leaves it that was killed after its drain.
    cluster.kubectl("annotate", "node", "node2", f"vllmd.com/cordoned-for-upgrade=v{after(noted('version'))}")
    cluster.kubectl("cordon", "node2")
    done = upgrade()
    assert done.returncode == 0, done.stdout
    new = f"v{after(noted('version'))}"
    assert versions(cluster) == dict.fromkeys(NODES, new)
    node = cluster.nodes()["node2"]
    assert "unschedulable" not in node["spec"]
    assert "vllmd.com/cordoned-for-upgrade" not in node["metadata"]["annotations"]
    for name in NODES:
        wait_for(lambda name=name: cluster.is_ready(name), f"{name} is ready")


def test_a_cluster_that_has_the_version_is_left_alone(upgrade: Any) -> None:
    done = upgrade()
    assert done.returncode == 0, done.stdout
    assert "nothing to do" in done.stdout


def test_the_control_plane_has_the_version(cluster: Any, host: Any) -> None:
    new = after(noted("version"))
    said = json.loads(cluster.kubectl("version", "--output=json"))
    assert said["serverVersion"]["gitVersion"] == f"v{new}"
    newest = json.loads(host.check_output("vllmd-etcd-snapshot --list"))[0]
    assert newest["reason"] == f"before the upgrade to {new}"
