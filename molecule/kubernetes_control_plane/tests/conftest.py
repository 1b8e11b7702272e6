"""The cluster as its administrator sees it, from the first member, and what is registered of its nodes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "shared/testing"))
from cluster import Cluster
from hosts import of_run
from registration import Registration


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of this run."""
    return Cluster(of_run("control1"))


@pytest.fixture(scope="session")
def registration(cluster: Cluster) -> Registration:
    """What is registered of its nodes."""
    return Registration(cluster)
