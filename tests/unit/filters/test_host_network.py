"""Filters from manifests and a host's network to what guest, launcher and host are given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.filter.host_network import FilterModule
from ansible_collections.vllmd.platform.plugins.filter.runtimes import hypervisor_runtimes
from ansible_collections.vllmd.platform.plugins.module_utils.guest_config import launcher_settings, runtime_json
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes

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
    assert entry["isolated"] == {"address": "10.213.0.77", "allow": [{"to": "192.0.2.7", "tcp": [443], "udp": []}]}
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


def test_what_is_not_possible_is_one_sentence() -> None:
    with pytest.raises(AnsibleFilterError, match="its host has no uplink"):
        FILTERS["runtimes_in_network"]([runtime("a", ISOLATED)], {"subnet": "10.213.0.0/24"})
    with pytest.raises(AnsibleFilterError, match="subnets is not a known field"):
        FILTERS["runtime_network_files"]([], {"subnets": ""}, "vllmd")
    with pytest.raises(AnsibleFilterError, match="runtime a: -1 is no number"):
        FILTERS["runtime_placement"]({"name": "a", "cpus": [-1]})


def test_a_placement_is_a_drop_in_only_when_there_is_one() -> None:
    assert FILTERS["runtime_placement"]({"name": "a"}) == ""
    assert "AllowedCPUs=0-1\n" in FILTERS["runtime_placement"]({"name": "a", "cpus": [1, 0], "numa_nodes": [0]})
