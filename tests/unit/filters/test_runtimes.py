"""From validated Runtimes and verified images to what role hypervisor is given."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.filter.runtimes import (
    api_endpoints,
    hypervisor_runtimes,
    runtimes_held,
    runtimes_on,
)
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


def test_a_guest_that_joins_a_cluster_is_the_same_machine_at_every_boot() -> None:
    joins = runtime("joins")
    joins["guest"] = {"uid": "4ab1f0f0-f262-590a-a033-1db6d6e70343", "kubernetes": {"api_endpoint": "10.0.0.10:6443"}}
    (entry,) = hypervisor_runtimes([joins], [image("latest", "b" * 12)])
    uid = "vllmd.uid=4ab1f0f0-f262-590a-a033-1db6d6e70343"
    assert entry["cmdline"].endswith(f"{uid} systemd.machine_id=4ab1f0f0f262590aa0331db6d6e70343")


@pytest.mark.parametrize(
    ("network", "endpoints"),
    [
        (
            {
                "mode": "user",
                "forward": [
                    {"host_address": "0.0.0.0", "host_port": 80, "guest_port": 8000},  # noqa: S104
                    {"host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22},
                ],
            },
            ["0.0.0.0:80"],
        ),
        ({"mode": "tap", "address": "192.0.2.10/24"}, ["192.0.2.10:8000"]),
        ({"mode": "tap", "address": None}, []),
        (
            {
                "mode": "isolated",
                "address": "10.213.0.9/24",
                "forward": [{"host_address": "192.0.2.1", "host_port": 8001, "guest_port": 8000}],
            },
            ["192.0.2.1:8001", "10.213.0.9:8000"],
        ),
    ],
)
def test_every_way_to_the_api_is_drained_and_no_other(network: dict[str, Any], endpoints: list[str]) -> None:
    assert api_endpoints({"spec": {"network": network}}) == endpoints


def test_a_revision_stands_for_all_of_a_configuration() -> None:
    def revision(resolved: str = "b" * 12, **guest: Any) -> str:
        one = runtime("one")
        one["guest"] |= guest
        return str(hypervisor_runtimes([one], [image("latest", resolved)])[0]["revision"])

    assert revision() == revision()
    assert len({revision(), revision("c" * 12), revision(engine={"dtype": "float32"})}) == 3


def test_what_was_refused_is_held_unless_it_is_tried_again() -> None:
    entries = hypervisor_runtimes([runtime("one")], [image("latest", "b" * 12)])
    assert entries[0]["image"] == f"vllmd-cpu {'b' * 12}"
    kept = {"image": "vllmd-cpu old", "health_url": "http://h/health"}
    refused = {
        "replica_of": "one",
        "image": entries[0]["image"],
        "revision": "",
        "reason": "why",
        "time": "t",
        "kept": kept,
    }
    records = {"one": {"refused": refused, "served": kept}}
    assert runtimes_held(entries, records, [])[0]["held"]
    assert runtimes_held(entries, records, [], retry=True) == entries
    assert runtimes_held(entries, {}, []) == entries
