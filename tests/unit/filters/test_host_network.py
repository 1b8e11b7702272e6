"""Filters from manifests and a host's network to what guest, launcher and host are given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.filter.host_network import FilterModule
from ansible_collections.vllmd.platform.plugins.filter.runtimes import api_url, hypervisor_runtimes, outside_url
from ansible_collections.vllmd.platform.plugins.module_utils.guest_config import (
    launcher_settings,
    runtime_json,
    runtime_uid,
)
from ansible_collections.vllmd.platform.plugins.module_utils.manifest_defaults import EVERY_ADDRESS
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes
from vllmd_hypervisor.memory import parse_memory

FILTERS = FilterModule().filters()
SETTINGS = {"subnet": "10.213.0.0/24", "uplink": "eth0", "dns": ["192.0.2.53"]}
MANIFEST = """\
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata: {{name: {name}}}
spec:
  model: {{name: m, source: local, repository: m}}
  resources: {{accelerator_count: 0}}
  network: {network}
"""
ISOLATED = "{mode: isolated, allow: [{to: 192.0.2.7, tcp: [443]}]}"
FORWARDED = "{mode: isolated, forward: [{host_port: 9000}]}"
ALLOW = [{"to": "192.0.2.7", "tcp": [443], "udp": []}]
IMAGE = {
    "item": {"name": "vllmd-cpu", "version": "latest"},
    "path": "/images/vllmd-cpu/1",
    "manifest": {"cmdline": "console=ttyS0"},
}


def runtime(name: str, network: str) -> dict[str, Any]:
    """A Runtime as module runtime_manifest returns it."""
    (loaded,) = load_runtimes(MANIFEST.format(name=name, network=network), "runtime.yaml")
    return {**loaded, "guest": runtime_json(loaded), "launcher": launcher_settings(loaded)}


def test_guest_launcher_and_host_agree() -> None:
    other = runtime("other", "{mode: user}")
    placed = FILTERS["runtimes_in_network"]([runtime("a", ISOLATED), other], SETTINGS, {"a": "10.213.0.77"})
    assert placed[1] == other
    entry, plain = hypervisor_runtimes(placed, [IMAGE])
    assert placed[0]["guest"]["network"] == {
        "mode": "static",
        "address": "10.213.0.77/24",
        "gateway": "10.213.0.1",
        "dns": ["192.0.2.53"],
    }
    tap = FILTERS["runtime_tap"]("a")
    assert entry["network"] == f"mode=tap,tap={tap},mac=02:ca:97:81:12:ca"
    assert entry["health_url"] == "http://10.213.0.77:8000/health"
    assert entry["isolated"] == {"address": "10.213.0.77", "allow": ALLOW, "forward": []}
    assert "isolated" not in plain
    files = {
        each["path"]: each["content"] for each in FILTERS["runtime_network_files"]([entry, plain], SETTINGS, "vllmd")
    }
    assert f'"{tap}" . 02:ca:97:81:12:ca . 10.213.0.77' in files["/etc/vllmd/network/runtimes/a.nft"]
    assert "ip daddr 192.0.2.7/32 tcp dport { 443 } accept" in files["/etc/vllmd/network/runtimes/a.nft"]
    assert not [path for path in files if "other" in path]
    json.dumps(placed)


def test_without_a_network_nothing_changes_and_isolated_is_refused() -> None:
    runtimes = [runtime("a", ISOLATED)]
    assert FILTERS["runtimes_in_network"](runtimes, {}) == runtimes
    with pytest.raises(AnsibleFilterError, match=r"runtime a wants .* isolated, but its host has no such"):
        hypervisor_runtimes(runtimes, [IMAGE])


def test_a_forwarded_port_is_in_the_hosts_policy_and_where_others_reach_the_api() -> None:
    (placed,) = FILTERS["runtimes_in_network"]([runtime("a", FORWARDED)], SETTINGS, {"a": "10.213.0.77"})
    assert api_url(placed) == "http://10.213.0.77:8000"
    assert outside_url(placed) == "http://0.0.0.0:9000"
    files = FILTERS["runtime_network_files"](hypervisor_runtimes([placed], [IMAGE]), SETTINGS, "vllmd")
    (rules,) = (each["content"] for each in files if each["path"].endswith("/a.nft"))
    assert "forwarded tcp dport 9000 dnat ip to 10.213.0.77:8000" in rules


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [(EVERY_ADDRESS, "192.0.2.1", True), ("192.0.2.1", "192.0.2.1", True), ("192.0.2.1", "192.0.2.2", False)],
)
def test_two_runtimes_of_one_host_want_one_port(one: str, other: str, refused: bool) -> None:
    network = "{{mode: isolated, forward: [{{host_port: 9000, host_address: {}}}]}}"
    both = [runtime("a", network.format(one)), runtime("b", network.format(other))]
    if not refused:
        assert len(FILTERS["runtimes_in_network"](both, SETTINGS)) == 2
        return
    with pytest.raises(AnsibleFilterError, match=r"runtimes a and b are on one host, .* 192.0.2.1, port 9000; give"):
        FILTERS["runtimes_in_network"](both, SETTINGS)


def test_what_is_not_possible_is_one_sentence() -> None:
    with pytest.raises(AnsibleFilterError, match=r"runtime a is reached at port 9000 .* has no uplink"):
        FILTERS["runtimes_in_network"]([runtime("a", FORWARDED)], {"subnet": "10.213.0.0/24"})
    with pytest.raises(AnsibleFilterError, match="its host has no uplink"):
        FILTERS["runtimes_in_network"]([runtime("a", ISOLATED)], {"subnet": "10.213.0.0/24"})
    with pytest.raises(AnsibleFilterError, match="subnets is not a known field"):
        FILTERS["runtime_network_files"]([], {"subnets": ""}, "vllmd")
    with pytest.raises(AnsibleFilterError, match="runtime a: -1 is no number"):
        FILTERS["runtime_placement"]({"name": "a", "cpus": [-1]})


def test_a_placement_is_a_drop_in_only_when_there_is_one() -> None:
    assert FILTERS["runtime_placement"]({"name": "a"}) == ""
    assert "AllowedCPUs=0-1\n" in FILTERS["runtime_placement"]({"name": "a", "cpus": [1, 0], "numa_nodes": [0]})


PLACEMENT = {
    "id": "a.1",
    "runtime": "a",
    "replica": 1,
    "host": "gpu-1",
    "cpu_count": 6,
    "cpus": [3, 2, 10, 11, 4, 5],
    "memory_mib": 8192,
    "hugepage_kib": 2048,
    "memory": [{"node": 1, "mib": 2048}, {"node": 0, "mib": 6144}],
    "groups": [14, 9],
    "devices": ["0000:01:00.0", "0000:01:00.1", "0000:02:00.0"],
    "accelerators": [],
    "demand": {},
}


def test_a_placement_becomes_a_replica_with_what_it_was_given() -> None:
    elsewhere = {**PLACEMENT, "id": "a", "replica": 0, "host": "gpu-2"}
    (replica,) = FILTERS["runtimes_placed"]([runtime("a", ISOLATED)], [PLACEMENT, elsewhere], "gpu-1")
    (entry,) = hypervisor_runtimes(FILTERS["runtimes_in_network"]([replica], SETTINGS), [IMAGE])
    assert (entry["name"], entry["cpu_count"]) == ("a.1", 6)
    assert entry["memory"] == "size=8192M,shared=on,hugepages=on,hugepage_size=2048K"
    assert parse_memory(entry["memory"]).hugepage_size == 2 * 2**20
    assert entry["devices"] == ["/dev/vfio/9", "/dev/vfio/14"]
    assert (entry["cpus"], entry["numa_nodes"]) == ([2, 3, 4, 5, 10, 11], [0, 1])
    assert replica["guest"]["uid"] == runtime_uid("a.1")
    assert f"vllmd.uid={runtime_uid('a.1')}" in entry["cmdline"]
    assert "AllowedCPUs=2-5,10-11\n" in FILTERS["runtime_placement"](entry)


def test_a_plan_of_other_manifests_is_one_sentence() -> None:
    with pytest.raises(AnsibleFilterError, match=r"the plan places a\.1 on gpu-1, but no manifest names a; plan again"):
        FILTERS["runtimes_placed"]([], [PLACEMENT], "gpu-1")
    with pytest.raises(AnsibleFilterError, match="the plan's placements miss 'groups'"):
        placement = {name: value for name, value in PLACEMENT.items() if name != "groups"}
        FILTERS["runtimes_placed"]([runtime("a", ISOLATED)], [placement], "gpu-1")
