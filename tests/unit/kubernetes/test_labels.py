"""What a node says of its hardware, for machines as they are and for random ones; and whose labels are touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.host import model as m
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import labels, names
from tests.support.healthy_host import GPU, GPUS, changed_device, healthy_host
from tests.support.hosts import host_of
from tests.support.random_hosts import host_trees
from tests.support.trees import Tree


def test_a_server_with_eight_accelerators() -> None:
    host = healthy_host()
    for gpu in GPUS:
        host = changed_device(gpu, driver="vfio-pci")(host)
    assert labels.hardware_labels(host) == {
        "accelerator.vllmd.com/count": "8",
        "accelerator.vllmd.com/isolation": "vfio",
        "accelerator.vllmd.com/memory-mib": "81920",
        "accelerator.vllmd.com/numa-nodes": "2",
        "accelerator.vllmd.com/nvidia-h100": "8",
        "accelerator.vllmd.com/nvlink": "true",
        "accelerator.vllmd.com/type": "nvidia-h100",
        "host.vllmd.com/numa-nodes": "2",
    }


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        (changed_device(GPU, device_id="26b9"), "type", "mixed"),
        (changed_device(GPU, device_id="26b9"), "nvidia-l40s", "1"),
        (changed_device(GPU, device_id="26b9"), "nvidia-h100", "7"),
        (changed_device(GPU, device_id="26b9"), "memory-mib", str(48 * 1024)),
        (changed_device(GPU, device_id="ffff"), "memory-mib", None),
        (changed_device(GPU, device_id="ffff"), "pci-10de-ffff", "1"),
        (changed_device(GPU, driver="nvidia"), "isolation", "mixed"),
        (changed_device(GPU, physical_function="0000:01:00.0"), "count", "7"),
    ],
)
def test_what_one_device_changes(change: Callable[[m.Host], m.Host], key: str, value: str | None) -> None:
    found = labels.hardware_labels(change(healthy_host()))
    assert found.get(f"accelerator.vllmd.com/{key}") == value


def test_a_host_without_accelerators_says_so() -> None:
    host = replace(healthy_host(), pci=m.Pci())
    found = labels.hardware_labels(host)
    assert found["accelerator.vllmd.com/count"] == "0"
    assert not [key for key in found if key.startswith("accelerator.") and not key.endswith("/count")]
    assert labels.hardware_taints(found, "NoSchedule") == []


def test_the_driver_and_what_guests_can_have() -> None:
    host = healthy_host()
    host = replace(
        host,
        modules=replace(host.modules, nvidia=m.NvidiaDriver("580.65.06")),
        confidential=m.Confidential(sev_snp=True),
    )
    found = labels.hardware_labels(host)
    assert found["accelerator.vllmd.com/driver"] == "580.65.06"
    assert found["host.vllmd.com/confidential"] == "sev-snp"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(host_trees(), st.text(max_size=80))
def test_every_label_of_every_host_is_legal(tree: Tree, version: str) -> None:
    host = host_of(tree)
    host = replace(host, modules=replace(host.modules, nvidia=m.NvidiaDriver(version)))
    for vendor in ("10de", "1002"):
        found = labels.hardware_labels(host, vendor)
        assert names.labels(found) == found
        taints = labels.hardware_taints(found, "NoSchedule")
        assert names.taints(taints) == taints


def test_only_our_own_labels_go() -> None:
    current = {
        "kubernetes.io/hostname": "gpu-1",
        "somebody.example.com/x": "1",
        "accelerator.vllmd.com/count": "8",
        "accelerator.vllmd.com/driver": "550.1",
        "vllmd.com/rack": "r1",
        "vllmd.com/row": "2",
    }
    wanted = {"accelerator.vllmd.com/count": "4", "vllmd.com/rack": "r1"}
    assert labels.changes(current, wanted, ["vllmd.com/row", "vllmd.com/rack"]) == {
        "accelerator.vllmd.com/count": "4",
        "accelerator.vllmd.com/driver": None,
        "vllmd.com/row": None,
    }
    assert labels.changes({**current, **wanted}, {**current, **wanted}, []) == {}
