"""The way back: without hypervisor_network the network goes with its last runtime; teardown leaves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import host_named, inventory, play

NO_RUNTIMES = {"vllmd_runtime_manifests": [], "vllmd_placements": []}


def links(name: str) -> list[str]:
    """The host's interfaces, by name."""
    return [
        line.split()[1].rstrip(":").split("@")[0] for line in host_named(name).check_output("ip -o link").splitlines()
    ]


@pytest.fixture(scope="module")
def kept() -> str:
    """What a run says that has no network in its inventory any more, while runtimes are on it."""
    outcome = play("delete.yml", delete_names=["birch"], hypervisor_network={})
    assert outcome.returncode == 0, outcome.output
    return outcome.output


def test_one_runtime_goes_and_the_network_stays(kept: str) -> None:
    assert kept
    assert [name for name in inventory() if "vllmd0" in links(name)] == list(inventory())


def test_without_runtimes_and_wishes_the_network_goes(kept: str) -> None:
    assert kept
    outcome = play("delete.yml", delete_names=["amber", "amber.1"])
    assert outcome.returncode == 0, outcome.output
    outcome = play("start.yml", **NO_RUNTIMES, hypervisor_network={})
    assert outcome.returncode == 0, outcome.output
    for name in inventory():
        assert not [each for each in links(name) if each.startswith("vllmd")]
        assert "vllmd" not in host_named(name).check_output("nft list tables")


def test_teardown_leaves_nothing() -> None:
    outcome = play("teardown.yml")
    assert outcome.returncode == 0, outcome.output
    for name in inventory():
        host = host_named(name)
        places = "/etc /usr/local /run /var/log /var/lib -xdev"
        left = host.run(f"find {places} -name '*vllmd*' -not -path '/var/lib/vllmd*' 2>/dev/null").stdout.split()
        assert left == []
        # The images are bound into the host by its bed.
        assert host.run("ls /var/lib/vllmd").stdout.split() in ([], ["images"])
        assert not [each for each in links(name) if each.startswith("vllmd")]
        assert "vllmd" not in host.check_output("nft list tables")
        assert host.process.filter(comm="vllmd-hyperviso") == []
    again = play("teardown.yml")
    assert (again.returncode, again.changed) == (0, 0), again.output
