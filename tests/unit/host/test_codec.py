"""A host as JSON: there and back, fitting the schema, refused with one line when it is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.codec import HostDataError, as_dict, from_dict
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, OpenHandle
from tests.support import host_schema
from tests.support.machines import MACHINES


def test_the_schema_is_made_from_the_dataclasses() -> None:
    assert host_schema.PATH.read_text() == host_schema.text()


@pytest.mark.parametrize("name", MACHINES)
def test_there_and_back(name: str, machine: Callable[[str], Host]) -> None:
    host = machine(name)
    data = json.loads(json.dumps(as_dict(host)))
    jsonschema.validate(data, json.loads(host_schema.PATH.read_text()))
    assert from_dict(data) == host


def test_an_empty_host_is_a_host() -> None:
    data = as_dict(Host())
    jsonschema.validate(data, json.loads(host_schema.PATH.read_text()))
    assert from_dict(data) == Host()


def test_unknown_fields_are_left_out_and_missing_ones_have_defaults() -> None:
    assert from_dict({"schema_version": 1, "cpu": {"vendor": "amd", "new": 1}}).cpu.vendor == "amd"


def test_names_that_are_no_utf8_become_text() -> None:
    handle = as_dict(OpenHandle(1, "x", "/dev/\udcff"))
    assert json.dumps(handle).encode("ascii")
    assert handle["path"] == "/dev/?"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "host: schema_version is None, expected 1"),
        ([], "host: schema_version is None"),
        ({"schema_version": 2}, "host: schema_version is 2, expected 1; read the host again"),
        ({"cpu": []}, "host.cpu: found '[]', expected a mapping"),
        ({"cpu": {"vendor": 3}}, "host.cpu.vendor: found '3', expected text"),
        ({"cpu": {"online": 3}}, "host.cpu.online: found '3', expected a list"),
        ({"cpu": {"online": [True]}}, "host.cpu.online[0]: found 'True', expected a whole number"),
        ({"cpu": {"family": 1.5}}, "host.cpu.family: found '1.5', expected a whole number"),
        ({"kvm": {"works": 1}}, "host.kvm.works: found '1', expected true or false"),
        ({"iommu": {"groups": {"x": {}}}}, "host.iommu.groups: found 'x', expected a whole number as the key"),
        ({"iommu": {"groups": {"1": {}}}}, "host.iommu.groups.1: misses one of id"),
        ({"pci": {"devices": []}}, "host.pci.devices: found '[]', expected a mapping"),
        ({"modules": {"vfio_aliases": [["a"]]}}, "host.modules.vfio_aliases[0]: found"),
        ({"nodes": None}, "host.nodes: found 'None', expected a mapping"),
    ],
)
def test_refused_in_one_line(data: Any, words: str) -> None:
    given = {"schema_version": 1, **data} if isinstance(data, dict) else data
    with pytest.raises(HostDataError) as refusal:
        from_dict(given)
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
