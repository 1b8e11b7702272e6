"""Whether a cluster has a place for a runtime, and which node is nearest when it has not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_fit import Cluster, misfits
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.render import runtime_objects
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.settings import settings
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes
from tests.support import kubernetes_examples as examples


def runtime(name: str = "qwen32b", **options: Any) -> list[dict[str, Any]]:
    (found,) = load_runtimes((examples.DATA / f"{name}.yaml").read_text(encoding="utf-8"), "a")
    return runtime_objects(found, settings({**examples.SETTINGS[name], **options}))


def deployment(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in objects if each["kind"] == "Deployment")


def node(name: str, objects: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a node on which just one pod of the runtime fits."""
    spec = deployment(objects)["spec"]["template"]["spec"]
    labels = {"kubernetes.io/hostname": name, "accelerator.vllmd.com/memory-mib": "81559", **spec["nodeSelector"]}
    allocatable = {**spec["containers"][0]["resources"]["requests"], "pods": "110"}
    return {
        "metadata": {"name": name, "labels": {**labels, **changes.pop("labels", {})}},
        "spec": changes.pop("spec", {}),
        "status": {
            "allocatable": {**allocatable, **changes.pop("allocatable", {})},
            "conditions": [{"type": "Ready", "status": changes.pop("ready", "True")}],
        },
    }


def pod(name: str, objects: list[dict[str, Any]], **metadata: Any) -> dict[str, Any]:
    template = copy.deepcopy(deployment(objects)["spec"]["template"])
    return {"metadata": metadata, "spec": {**template["spec"], "nodeName": name}, "status": {"phase": "Running"}}


def fit(objects: list[dict[str, Any]], *nodes: dict[str, Any], **more: Any) -> list[str]:
    return misfits(objects, Cluster(nodes, more.pop("pods", ()), frozenset(more.pop("classes", ("nvidia",)))))


def wanted(objects: list[dict[str, Any]]) -> int:
    scaled = [each["spec"]["minReplicas"] for each in objects if each["kind"] == "HorizontalPodAutoscaler"]
    return int(scaled[0]) if scaled else int(deployment(objects)["spec"]["replicas"])


@pytest.mark.parametrize("name", ["smollm2", "qwen32b"])
def test_nodes_that_are_just_large_enough_fit(name: str) -> None:
    objects = runtime(name)
    nodes = [node(f"gpu-{number}", objects) for number in range(wanted(objects))]
    assert fit(objects, *nodes) == []
    (line,) = fit(objects, *nodes[:-1], node("last", objects, ready="False"))
    assert "\n" not in line
    assert line.endswith("nearest is last: it is not ready")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": {"unschedulable": True}}, "it is cordoned"),
        (
            {"labels": {"accelerator.vllmd.com/type": "nvidia-a100"}},
            "label accelerator.vllmd.com/type is nvidia-a100, not",
        ),
        (
            {"labels": {"accelerator.vllmd.com/memory-mib": "1024"}},
            "label accelerator.vllmd.com/memory-mib is 1024, wanted Gt",
        ),
        ({"allocatable": {"nvidia.com/gpu": "0"}}, "0 of nvidia.com/gpu free, and"),
        ({"allocatable": {"memory": "1Gi"}}, "1.0 GiB of memory free, and"),
        ({"allocatable": {"cpu": "500m"}}, "0.5 of cpu free, and"),
        ({"allocatable": {"pods": "0"}}, "0 of pods free, and 1 wanted"),
        (
            {"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoExecute"}]}},
            "taint team=x:NoExecute is not tolerated",
        ),
    ],
)
def test_what_a_node_lacks_is_said(changes: dict[str, Any], said: str) -> None:
    objects = runtime()
    (line,) = fit(objects, node("gpu-1", objects, **changes))
    assert "nearest is gpu-1: " in line
    assert said in line


def test_taints_that_are_tolerated_or_only_preferred_do_not_count() -> None:
    objects = runtime()
    taints = [
        {"key": "vllmd.com/accelerator", "value": "nvidia-h100", "effect": "NoSchedule"},
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        {"key": "team", "effect": "PreferNoSchedule"},
    ]
    nodes = [node(f"gpu-{number}", objects, spec={"taints": taints}) for number in range(wanted(objects))]
    assert fit(objects, *nodes) == []


def test_the_nearest_lacks_the_fewest_things_and_of_those_the_least() -> None:
    objects = runtime()
    far = node("a-far", objects, ready="False", allocatable={"cpu": "0"})
    near = node("c-near", objects, allocatable={"memory": "1Gi"})
    nearer = node("b-nearer", objects, allocatable={"memory": "30Gi"})
    (line,) = fit(objects, far, near, nearer)
    assert "nearest is b-nearer" in line


def test_others_pods_take_room_and_its_own_do_not() -> None:
    objects = runtime()
    nodes = [node(f"gpu-{number}", objects) for number in range(wanted(objects))]
    own = deployment(objects)["spec"]["selector"]["matchLabels"]
    namespace = deployment(objects)["metadata"]["namespace"]
    mine = pod("gpu-0", objects, namespace=namespace, labels=own)
    assert fit(objects, *nodes, pods=[mine]) == []
    ended = pod("gpu-0", objects, namespace="other", labels=own)
    ended["status"]["phase"] = "Succeeded"
    assert fit(objects, *nodes, pods=[ended]) == []
    (line,) = fit(objects, *nodes, pods=[pod("gpu-0", objects, namespace="other", labels=own)])
    assert "nearest is gpu-0" in line


def test_a_cluster_without_nodes_or_the_runtime_class() -> None:
    objects = runtime(runtime_class="nvidia")
    assert fit(objects) == ["runtime qwen32b: the cluster has no node; join one by playbooks/join.yml"]
    (line,) = fit(objects, node("gpu-1", objects), classes=("runc",))
    assert line == "runtime qwen32b: the cluster has no RuntimeClass nvidia; it has runc"


def test_replicas_that_must_be_apart_need_as_many_nodes() -> None:
    objects = runtime("smollm2")
    made = deployment(objects)
    made["spec"]["replicas"] = 2
    large = node("big", objects, allocatable={"cpu": "64", "memory": "512Gi"})
    assert fit(objects, large) == []
    term = {"labelSelector": made["spec"]["selector"], "topologyKey": "kubernetes.io/hostname"}
    anti = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    made["spec"]["template"]["spec"]["affinity"] = {"podAntiAffinity": anti}
    assert fit(objects, large) == [
        "runtime smollm2: 2 replicas are wanted, each on a node of its own, and the nodes have room for 1"
    ]
