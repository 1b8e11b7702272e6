"""Three Runtimes become exactly the files that are kept beside them; Kubernetes' own schemas accept every object."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ruamel.yaml import YAML

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import labels
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests import names
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes
from tests.support import kubernetes_examples as examples

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
MONITOR = json.loads((examples.DATA / "service-monitor.schema.json").read_text(encoding="utf-8"))


def objects(name: str) -> list[dict[str, Any]]:
    """Return all objects of an example."""
    return [each for text in examples.rendered(name).values() for each in yaml.safe_load_all(text)]


def kind(name: str, wanted: str) -> dict[str, Any]:
    """Return the example's only object of a kind, beside the namespace's own."""
    (found,) = [each for each in objects(name) if each["kind"] == wanted and each["metadata"]["name"] != "default-deny"]
    return found


def container(name: str) -> dict[str, Any]:
    """Return the example's only container."""
    (found,) = kind(name, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("name", examples.NAMES)
def test_an_example_becomes_its_files(name: str) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in (examples.DATA / name).iterdir()}
    assert examples.rendered(name) == kept, "after a change that is meant run tests/support/kubernetes_examples.py"


def test_the_page_shows_what_comes_out() -> None:
    text = examples.PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- generated: ") == 2
    assert examples.page(text) == text, "run tests/support/kubernetes_examples.py"


@pytest.mark.parametrize("name", examples.NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_object(name: str, version: str) -> None:
    checked = 0
    for each in objects(name):
        if each["kind"] == "ServiceMonitor":
            continue  # not Kubernetes' own; see the next test
        kubernetes_validate.validate(each, version, strict=True)
        checked += 1
    assert checked >= 7


@pytest.mark.parametrize("name", ["llama70b", "qwen32b"])
def test_the_prometheus_operator_accepts_a_monitor(name: str) -> None:
    jsonschema.validate(kind(name, "ServiceMonitor"), MONITOR)


def test_a_wrong_monitor_is_noticed() -> None:
    wrong = kind("qwen32b", "ServiceMonitor")
    wrong["spec"]["endpoints"][0]["interval"] = "15 seconds"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, MONITOR)


@pytest.mark.parametrize("name", examples.NAMES)
def test_both_yaml_versions_read_the_same(name: str) -> None:
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    for text in examples.rendered(name).values():
        assert json.loads(json.dumps(list(reader.load_all(text)))) == list(yaml.safe_load_all(text))


def test_the_order_of_objects_is_that_of_their_need() -> None:
    kinds = [each["kind"] for each in yaml.safe_load_all(examples.rendered("qwen32b")["qwen32b.yaml"])]
    assert kinds == [
        "ServiceAccount",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Service",
        "Deployment",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "ServiceMonitor",
    ]


def test_every_exception_from_a_policy_has_its_reason() -> None:
    for name in examples.NAMES:
        for each in objects(name):
            for key, value in each["metadata"].get("annotations", {}).items():
                check, _equals, reason = value.partition("=")
                assert key.startswith("checkov.io/skip"), key
                assert check.startswith("CKV_K8S_")
                assert len(reason.split()) > 5


def test_a_model_of_the_image_reaches_nothing_and_nothing_scales() -> None:
    kinds = [each["kind"] for each in objects("smollm2")]
    assert "HorizontalPodAutoscaler" not in kinds
    assert "PersistentVolumeClaim" not in kinds
    assert "ServiceMonitor" not in kinds
    policy = kind("smollm2", "NetworkPolicy")["spec"]
    assert policy["egress"] == []
    assert policy["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"vllmd.com/client": "true"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}},
    ]
    arguments = container("smollm2")["args"]
    assert "--model=/var/lib/vllmd/models/smollm2-135m-instruct" in arguments
    assert "--kv-cache-memory-bytes=1342177280" in arguments, "a quarter of 5Gi"


def test_a_pod_ends_in_the_order_endpoints_requests_engine() -> None:
    pod = kind("llama70b", "Deployment")["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    assert only["lifecycle"] == {"preStop": {"sleep": {"seconds": 15}}}
    assert "--shutdown-timeout=900" in only["args"]
    assert pod["terminationGracePeriodSeconds"] == 15 + 900 + 30


def test_the_restricted_standard_is_kept() -> None:
    for name in examples.NAMES:
        pod = kind(name, "Deployment")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        allowed = {"emptyDir", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


def test_a_secret_is_named_and_never_held() -> None:
    assert container("qwen32b")["env"] == [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "huggingface", "key": "token"}}}
    ]


def test_arguments_are_what_vllm_and_kubernetes_read() -> None:
    assert container("qwen32b")["args"][5:] == [
        '--compilation-config={"level": 3}',
        "--no-enable-prefix-caching",
        "--max-model-len=32768",
        "--tensor-parallel-size=2",
    ]
    assert {"name": "PRICE", "value": "5$$"} in container("llama70b")["env"], "a dollar sign begins a variable"


def test_the_autoscaler_looks_at_the_queue_when_asked() -> None:
    spec = kind("llama70b", "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 3), "0 is below what an autoscaler can keep"
    assert spec["metrics"][0]["pods"]["metric"] == {"name": "vllm_num_requests_waiting"}
    assert "replicas" not in kind("llama70b", "Deployment")["spec"], "applying again must not undo the autoscaler"
    assert kind("qwen32b", "HorizontalPodAutoscaler")["spec"]["metrics"][0]["type"] == "Resource"


def test_only_the_place_differs_from_a_virtual_machine() -> None:
    text = (examples.DATA / "qwen32b.yaml").read_text(encoding="utf-8")
    (pods,) = load_runtimes(text, "a")
    (machine,) = load_runtimes(text.replace("target: kubernetes, ", ""), "a")
    assert machine["spec"]["placement"].pop("target") == "hypervisor"
    assert pods["spec"]["placement"].pop("target") == "kubernetes"
    assert (machine["spec"].pop("target"), pods["spec"].pop("target")) == ("hypervisor", "kubernetes")
    assert machine == pods


def test_pods_ask_for_what_nodes_say_of_themselves() -> None:
    """Nodes get these labels and this taint from their hardware (module kubernetes_labels)."""
    assert f"{labels.ACCELERATOR}/type" == names.ACCELERATOR_LABEL
    assert f"{labels.ACCELERATOR}/memory-mib" == names.ACCELERATOR_MEMORY_LABEL
    assert names.ACCELERATOR_TAINT == labels.TAINT
