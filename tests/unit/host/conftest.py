"""Fixtures: the machines of tests/unit/data/hosts, laid out once and read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from tests.support import trees
from tests.support.machines import DATA


@pytest.fixture(scope="session")
def machine_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a machine's files by its name."""
    roots: dict[str, Path] = {}

    def root_of(name: str) -> Path:
        if name not in roots:
            tree = trees.load(DATA / f"{name}.tree.json")
            roots[name] = trees.materialise(tree, tmp_path_factory.mktemp(name))
        return roots[name]

    return root_of


@pytest.fixture(scope="session")
def machine(machine_root: Callable[[str], Path]) -> Callable[[str], Host]:
    """Return a machine as a host by its name."""
    hosts: dict[str, Host] = {}

    def host_of(name: str) -> Host:
        if name not in hosts:
            hosts[name] = read_host(str(machine_root(name)))
        return hosts[name]

    return host_of
