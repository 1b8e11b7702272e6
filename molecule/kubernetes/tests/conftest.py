"""The cluster as its administrator sees it, from the control plane's host, and requests for certificates."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra

sys.path.insert(0, str(Path(__file__).parents[2] / "shared/testing"))
from cluster import Cluster
from registration import Registration


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of this run."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return Cluster(testinfra.get_host("ansible://control1", ansible_inventory=inventory))


def node(name: str) -> Any:
    """A host of this run."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])


@pytest.fixture(scope="session")
def node1() -> Any:
    """The first node."""
    return node("node1")


@pytest.fixture(scope="session")
def node2() -> Any:
    """The second node."""
    return node("node2")


@pytest.fixture(scope="session")
def registration(cluster: Cluster) -> Registration:
    """What is registered of its nodes."""
    return Registration(cluster)
