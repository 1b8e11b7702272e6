"""What a host gives: captured machines, what is kept back, and data from elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtime
from ansible_collections.vllmd.platform.plugins.module_utils.placement.accelerators import AcceleratorError, known
from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import as_dict, from_dict
from ansible_collections.vllmd.platform.plugins.module_utils.placement.data import DataError
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.from_host import Policy, capacity_of
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.choose import SelectionError
from tests.support import modules, trees
from tests.support.fleets import host as small_host
from tests.support.healthy_host import GPU, GPUS, NVME, healthy_host

CAPTURED = Path(__file__).parents[1] / "data/hosts"


@cache
def captured(name: str) -> Host:
    with TemporaryDirectory() as root:
        return read_host(str(trees.materialise(trees.load(CAPTURED / f"{name}.tree.json"), Path(root))))


def test_a_server_with_eight_accelerators() -> None:
    found = capacity_of(captured("hgx-h100"), "hgx", Policy())
    assert [(node.node, len(node.cores), node.cores[0], node.distances) for node in found.nodes] == [
        (0, 55, (1, 113), (10, 21)),
        (1, 55, (57, 169), (21, 10)),
    ]
    # All of the memory to give is its hugepage pool, 480 pages of 1 GiB on each node.
    assert (found.hugepage_kib, [node.memory_mib for node in found.nodes]) == (1048576, [491520, 491520])
    assert [unit.node for unit in found.units] == [0] * 4 + [1] * 4
    first = found.units[0]
    assert (first.groups, first.devices, first.switch, first.island) == (
        (14,),
        ("0000:18:00.0",),
        "0000:16:00.0",
        "nvlink",
    )
    assert (first.accelerators[0].type, first.accelerators[0].memory_mib) == ("nvidia-h100", 80 * 1024)


def test_a_card_with_many_functions_is_one_unit() -> None:
    (unit,) = capacity_of(captured("desktop"), "desktop", Policy()).units
    assert unit.devices == tuple(f"0000:01:00.{function}" for function in range(4))
    assert [each.bdf for each in unit.accelerators] == ["0000:01:00.0"]


def test_memory_of_nodes_without_cpus_is_not_for_guests() -> None:
    found = capacity_of(captured("grace-hopper"), "grace", Policy())
    assert [(node.node, node.distances) for node in found.nodes] == [(0, (10,))]
    assert [unit.node for unit in found.units] == [0]


@pytest.mark.parametrize("name", ["emulated-bound", "guest-healthy", "guest-no-iommu"])
def test_hosts_without_accelerators_give_cpus_and_memory(name: str) -> None:
    found = capacity_of(captured(name), name, Policy())
    assert found.units == ()
    assert found.cpus > 0
    assert found.memory_mib > 0


@pytest.mark.parametrize(
    ("policy", "cores", "memory_mib"),
    [
        ({}, [55, 55], 2 * 491520),
        ({"reserve_cores": 4}, [52, 52], 2 * 491520),
        ({"reserve_cores": 60}, [0, 0], 2 * 491520),
        ({"hugepages": "never"}, [55, 55], 2097152 - 2048 - 2097152 // 50 - 1),
        ({"hugepages": "never", "reserve_memory_mib": 0}, [55, 55], 2097152),
        ({"hugepages": "never", "reserve_memory_mib": 1 << 30}, [55, 55], 0),
    ],
)
def test_the_host_keeps_its_reserve(policy: dict[str, Any], cores: list[int], memory_mib: int) -> None:
    found = capacity_of(captured("hgx-h100"), "hgx", Policy(**policy))
    assert [len(node.cores) for node in found.nodes] == cores
    assert memory_mib - 2048 <= found.memory_mib <= memory_mib


def test_what_the_host_lives_on_is_left_out_with_the_reason() -> None:
    host = healthy_host()
    devices = {**host.pci.devices, NVME: replace(host.pci.devices[NVME], iommu_group=20)}
    groups = {
        **host.iommu.groups,
        20: replace(host.iommu.groups[20], devices=(*host.iommu.groups[20].devices, NVME)),
    }
    host = replace(host, pci=replace(host.pci, devices=devices), iommu=replace(host.iommu, groups=groups))
    found = capacity_of(host, "h", Policy())
    assert len(found.units) == len(GPUS) - 1
    (left_out,) = found.left_out
    assert GPU in left_out.devices
    assert "carries" in left_out.reason


def test_selectors_of_role_vfio_choose() -> None:
    assert len(capacity_of(healthy_host(), "h", Policy(devices=(GPU,))).units) == 1
    assert len(capacity_of(healthy_host(), "h", Policy(exclude=(GPU,))).units) == len(GPUS) - 1
    assert capacity_of(healthy_host(), "h", Policy(devices=())).units == ()
    with pytest.raises(SelectionError, match="selects no device"):
        capacity_of(healthy_host(), "h", Policy(devices=("gpu",)))


def test_an_inventory_names_its_own_accelerators() -> None:
    table = known({"10de:2330": {"type": "acme-x1", "memory_gib": 10}})
    accelerator = capacity_of(healthy_host(), "h", Policy(accelerators=table)).units[0].accelerators[0]
    assert (accelerator.type, accelerator.memory_mib) == ("acme-x1", 10 * 1024)
    unknown = {key: value for key, value in known({}).items() if key != "10de:2330"}
    accelerator = capacity_of(healthy_host(), "h", Policy(accelerators=unknown)).units[0].accelerators[0]
    assert (accelerator.type, accelerator.memory_mib) == ("pci-10de-2330", None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"2235": {}}, "accelerator 2235: not a PCI id"),
        ({"10de:2235": 3}, "found 3; allowed: a mapping of type"),
        ({"10de:2235": {"type": "A40"}}, "type 'A40'; allowed"),
        ({"10de:2235": {"type": "a40", "memory_gib": 0}}, "memory_gib 0; allowed"),
        ({"10de:2235": {"type": "a40", "nvlink": "yes"}}, "nvlink 'yes'; allowed"),
        ({"10de:2235": {"type": "a40", "size": 1}}, "allowed: a mapping of type"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AcceleratorError) as refused:
        known(given)
    assert message in str(refused.value)


def test_a_capacity_survives_json() -> None:
    for name in ("hgx-h100", "desktop", "grace-hopper"):
        found = capacity_of(captured(name), name, Policy())
        assert from_dict(json.loads(json.dumps(as_dict(found)))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, expected 1"),
        ({"host": ""}, "host is '', expected text"),
        ({"nodes": {}}, "nodes is '{}', expected a list of mappings"),
        ({"nodes": [{"node": 0, "cores": [0], "memory_mib": 1}]}, "expected a list of lists of CPU numbers"),
        ({"nodes": [{"node": 0, "cores": [["0"]], "memory_mib": 1}]}, "expected a list of whole numbers"),
        ({"nodes": [{"node": 0, "cores": [[True]], "memory_mib": 1}]}, "expected a list of whole numbers"),
        ({"nodes": [{"node": 0, "cores": [[0], [0]], "memory_mib": 1}]}, "CPU 0 is there twice"),
        ({"hugepage_kib": -1}, "hugepage_kib is '-1', expected a whole number"),
        ({"units": [{"groups": [1], "devices": ["a"], "accelerators": [{}]}]}, "bdf is 'None', expected text"),
        ({"left_out": [{"devices": "x", "reason": "y"}]}, "devices is 'x', expected a list of texts"),
    ],
)
def test_data_from_elsewhere_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as refused:
        from_dict({**as_dict(small_host("h", ["nvidia-a40"])), **change})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_seeds_manifest_is_placed_on_a_captured_machine() -> None:
    """Manifests as they are read, and hosts as they are read, fit together."""
    manifest = """
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata: {name: r1-qwen32b-int8}
spec:
  model: {name: r1, source: huggingface, repository: vllmd/deepseek-r1-distill-qwen-32b-w8a8-dynamic}
  resources: {accelerator_memory: 48Gi, accelerator_count: 1, accelerator_type: nvidia-l40s}
  scaling: {minReplicas: 1, maxReplicas: 3}
  placement: {hosts: [epyc], anti_affinity: none}
"""
    hosts = [capacity_of(captured(f"{name}"), name.partition("-")[0], Policy()) for name in ("epyc-l40s", "hgx-h100")]
    plan = make_plan(hosts, [load_runtime(manifest, "runtime.yaml")], None, Options())
    (placement,) = plan["placements"]
    assert (placement["host"], placement["groups"], placement["devices"]) == ("epyc", [12], ["0000:01:00.0"])
    assert (placement["memory_mib"], placement["hugepage_kib"]) == (16 * 1024, 1048576)


def test_the_module_reads_a_host(tmp_path: Path) -> None:
    root = trees.materialise(trees.load(CAPTURED / "epyc-l40s.tree.json"), tmp_path / "root")
    result = modules.run("host_capacity", {"name": "epyc", "root": str(root), "reserve_memory": "8Gi"}, tmp_path)
    assert result["changed"] is False
    assert from_dict(result["capacity"]).accelerators == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": "/nowhere"}, "root: /nowhere is not a directory"),
        ({"reserve_cores": -1}, "reserve_cores: found -1; allowed: 0 or more"),
        ({"reserve_memory": "much"}, "reserve_memory: found 'much' is no quantity"),
        ({"devices": ["gpu"]}, "'gpu' selects no device"),
        ({"accelerators": {"x": 1}}, "accelerator x: not a PCI id"),
    ],
)
def test_the_module_refuses_in_one_line(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    result = modules.run("host_capacity", {"name": "h", **given}, tmp_path)
    assert result["failed"]
    assert message in result["msg"]
