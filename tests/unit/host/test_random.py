"""500 random hosts, with files missing and full of garbage: never a traceback, always data that fits the schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings

from ansible_collections.vllmd.platform.plugins.module_utils.host.codec import as_dict, from_dict
from tests.support.host_schema import PATH
from tests.support.hosts import host_of
from tests.support.random_hosts import host_trees
from tests.support.trees import Tree

_SETTINGS = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@cache
def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(PATH.read_text()))


@_SETTINGS
@given(host_trees())
def test_any_host_reads_without_an_error(tree: Tree) -> None:
    host = host_of(tree)
    data = json.loads(json.dumps(as_dict(host), allow_nan=False))
    assert from_dict(data) == host
    assert [error.message for error in validator().iter_errors(data)] == []


@settings(_SETTINGS, max_examples=60)
@given(host_trees(garbage=False))
def test_a_host_without_garbage_has_no_troubles_and_agrees_with_itself(tree: Tree) -> None:
    host = host_of(tree)
    assert host.troubles == ()
    for group in host.iommu.groups.values():
        assert all(host.pci.devices[bdf].iommu_group == group.id for bdf in group.devices)
    for device in host.pci.devices.values():
        if device.iommu_group is not None:
            assert device.bdf in host.iommu.groups[device.iommu_group].devices
        assert all(bdf in host.pci.devices for bdf in device.upstream)
    used = {bdf for use in host.storage.uses for bdf in use.pci_devices}
    used |= {bdf for name in host.network.default_route_interfaces for bdf in host.network.interfaces[name].pci_devices}
    assert used <= set(host.pci.devices)
