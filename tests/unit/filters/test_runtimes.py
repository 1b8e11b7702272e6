"""From validated Runtimes and verified images to what role hypervisor is given."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.filter.runtimes import hypervisor_runtimes, runtimes_on
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtime

MANIFEST = """\
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata: {{name: {name}}}
spec:
  model: {{name: m, source: local, repository: m}}
  resources: {{accelerator_count: 0}}
  image: {{name: vllmd-cpu, version: {version}}}
  placement: {{hosts: {hosts}}}
"""


def runtime(name: str, version: str = "latest", hosts: str = "[]") -> dict[str, Any]:
    """A validated Runtime, with the launcher's part that the module adds."""
    loaded = load_runtime(MANIFEST.format(name=name, version=version, hosts=hosts), "runtime.yaml")
    return loaded | {
        "guest": {"uid": f"uid-of-{name}"},
        "launcher": {"cpu_count": 4, "memory_config": "size=16384M", "network": "mode=user"},
    }


def image(version: str, resolved: str) -> dict[str, Any]:
    """What module image_verify returns in a loop."""
    return {
        "item": {"name": "vllmd-cpu", "version": version},
        "path": f"/images/vllmd-cpu/{resolved}",
        "manifest": {"name": "vllmd-cpu", "version": resolved, "cmdline": "root=/dev/vda ro"},
    }


def test_two_runtimes_on_two_versions_of_one_image() -> None:
    images = [image("latest", "b" * 12), image("a" * 12, "a" * 12)]
    entries = hypervisor_runtimes([runtime("new"), runtime("old", version="a" * 12)], images)
    assert [entry["kernel"] for entry in entries] == [f"/images/vllmd-cpu/{each * 12}/kernel" for each in "ba"]


def test_an_image_that_was_not_verified_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match=r"runtime new names image vllmd-cpu latest, .* verified: none"):
        hypervisor_runtimes([runtime("new")], [])


def test_runtimes_go_where_they_may() -> None:
    runtimes = [runtime("anywhere"), runtime("there", hosts="[gpu-02]"), runtime("both", hosts="[gpu-01, gpu-02]")]
    assert [each["metadata"]["name"] for each in runtimes_on(runtimes, "gpu-01")] == ["anywhere", "both"]


def test_the_guest_is_told_whose_it_is_and_gets_its_cache_disk() -> None:
    plain, cached, own = (runtime(name) for name in ("plain", "cached", "own"))
    cached["spec"]["storage"] = {"cache": {"size_mib": 1024, "device": None}}
    own["spec"]["storage"] = {"cache": {"size_mib": 0, "device": "/dev/vg/cache"}}
    entries = hypervisor_runtimes([plain, cached, own], [image("latest", "b" * 12)], "/r", "mitigations=off")
    assert entries[0]["cmdline"] == "root=/dev/vda ro vllmd.uid=uid-of-plain mitigations=off"
    assert [(entry["cache_image"], entry["cache_size_mib"]) for entry in entries] == [
        ("", 0),
        ("/r/cached/cache.raw", 1024),
        ("/dev/vg/cache", 0),
    ]
