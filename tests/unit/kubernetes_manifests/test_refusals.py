"""What cannot be had is refused in one line that says what, where, why and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.render import files
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.settings import RenderError, settings
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes
from tests.support import kubernetes_examples as examples


def refusal(options: dict[str, Any], old: str = "", new: str = "", name: str = "qwen32b") -> str:
    """Return the line that the example is refused with, after ``old`` became ``new`` in it."""
    text = (examples.DATA / f"{name}.yaml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(RenderError) as caught:
        files(load_runtimes(text.replace(old, new), "a"), settings({**examples.SETTINGS[name], **options}))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"images": {}},
            "runtime qwen32b: no reference for image vllmd-cuda; give it in images as "
            "vllmd-cuda: registry/name@sha256:... (in the playbook: vllmd_kubernetes_images)",
        ),
        (
            {"images": {"vllmd-cuda": "registry.example.com/vllmd-cuda:latest"}},
            "images.vllmd-cuda: found 'registry.example.com/vllmd-cuda:latest'; allowed: a registry, a name and a "
            "digest: registry/name@sha256:...",
        ),
        (
            {"cache_access_mode": "ReadWriteOnce"},
            "runtime qwen32b: up to 4 replicas cannot share a cache that is ReadWriteOnce; set cache_access_mode to "
            "ReadWriteMany, remove spec.storage, or set maxReplicas to 1",
        ),
        ({"namespace": "A b"}, "namespace: found 'A b'; allowed: a namespace: a-z, 0-9 and '-', at most 63"),
        ({"namespace": 5}, "namespace: found 5; allowed: a namespace: a-z, 0-9 and '-', at most 63"),
        ({"start_seconds": 5}, "start_seconds: found 5; allowed: 60 to 604800"),
        (
            {"private_networks": ["10.0.0.1/8"]},
            "private_networks: found '10.0.0.1/8'; allowed: IPv4 networks such as 10.0.0.0/8",
        ),
        (
            {"accelerator_resources": {"nvidia-a40": "gpu"}},
            "accelerator_resources: found 'gpu'; allowed: a resource such as nvidia.com/gpu",
        ),
        (
            {"secrets": [{"variable": "A-B", "secret": "a", "key": "b"}]},
            "secrets.variable: found 'A-B'; allowed: an environment variable's name",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings(options: dict[str, Any], line: str) -> None:
    assert refusal(options) == line


def test_a_version_wants_a_reference_of_its_own() -> None:
    options = {"images": {"vllm-rocm": f"registry.example.com/a@{examples.DIGEST}"}}
    assert refusal(options, name="llama70b").startswith(
        "runtime llama70b: no reference for image vllm-rocm:7b1f0c9d2e44;"
    )


def test_a_secret_in_the_clear_beside_the_same_by_reference() -> None:
    options = {"secrets": [{"variable": "LIMIT", "secret": "a", "key": "b"}]}
    line = "runtime llama70b: LIMIT is in spec.engine_environment and in the secrets; remove it from one"
    assert refusal(options, name="llama70b") == line


def test_seconds_that_are_none() -> None:
    line = "runtime llama70b: spec.engine.shutdown-timeout is 'soon'; allowed: whole seconds, 0 or more"
    assert refusal({}, "900", "soon", "llama70b") == line


def test_a_runtime_of_a_hypervisor() -> None:
    line = "runtime qwen32b: spec.placement.target is not kubernetes; it runs on a hypervisor"
    assert refusal({}, "target: kubernetes, ", "") == line


def test_one_replica_may_have_a_disk_of_its_own() -> None:
    text = (examples.DATA / "qwen32b.yaml").read_text(encoding="utf-8")
    runtimes = load_runtimes(text.replace("minReplicas: 2, maxReplicas: 4", "maxReplicas: 1"), "a")
    options = settings({**examples.SETTINGS["qwen32b"], "cache_access_mode": "ReadWriteOnce"})
    found = files(runtimes, options)["qwen32b.yaml"]
    assert "type: Recreate" in found
    assert "RollingUpdate" not in found
