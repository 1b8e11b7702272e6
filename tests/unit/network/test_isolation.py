"""The packet filter and port isolation on a real kernel: guests are network namespaces on a bridge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import Network, guest_of, network_of
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network_files import TABLE, guest_policy, policy
from tests.support.namespaces import Bed

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None, reason="makes network namespaces and loads rulesets"
)

SETTINGS = {"subnet": "10.213.0.0/24", "uplink": "eth0", "dns": [Bed.world], "gateway_tcp": [53]}
NETWORK = network_of(SETTINGS)
A = guest_of(NETWORK, "a", "10.213.0.10", [{"to": f"{Bed.world}/32", "tcp": [443], "udp": []}])
B = guest_of(NETWORK, "b", "10.213.0.11", forward=[{"host_port": 9000}, {"host_port": 9022, "guest_port": 22}])


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Two guests; a knows b's place on the wire."""
    with Bed(NETWORK, [A, B]) as made:
        made.inside("a", "ip", "neighbour", "replace", B.address, "lladdr", B.mac, "dev", "eth0", "nud", "permanent")
        made.inside("b", "ip", "neighbour", "replace", A.address, "lladdr", A.mac, "dev", "eth0", "nud", "permanent")
        yield made


def load(bed: Bed, directory: Path, network: Network = NETWORK) -> None:
    """Load the policy with both guests."""
    for guest in (A, B):
        (directory / f"{guest.name}.nft").write_text(guest_policy(guest))
    bed.filter(policy(network, str(directory)))


def isolate(bed: Bed, wanted: bool) -> None:
    """What systemd-networkd does for ``Isolated=``."""
    for guest in (A, B):
        bed.inside("host", "bridge", "link", "set", "dev", guest.tap, "isolated", "on" if wanted else "off")


def test_without_either_layer_the_guests_reach_each_other(bed: Bed) -> None:
    assert bed.reaches("a", B.address, 8000)


def test_port_isolation_alone_keeps_guests_apart_on_the_wire(bed: Bed) -> None:
    isolate(bed, wanted=True)
    assert not bed.reaches("a", B.address, 8000)
    assert bed.reaches("a", NETWORK.gateway, 22)
    isolate(bed, wanted=False)
    assert bed.reaches("a", B.address, 8000)


def test_the_filter_alone_keeps_guests_apart_on_the_wire(bed: Bed, tmp_path: Path) -> None:
    load(bed, tmp_path)
    assert not bed.reaches("a", B.address, 8000)
    bed.filter(f"delete table inet {TABLE}")
    assert not bed.reaches("a", B.address, 8000)
    assert bed.pings("a", NETWORK.gateway)


def test_a_runtime_reaches_its_gateway_and_what_is_allowed(bed: Bed, tmp_path: Path) -> None:
    isolate(bed, wanted=True)
    load(bed, tmp_path)
    for guest in ("a", "b"):
        assert bed.pings(guest, NETWORK.gateway)
        assert bed.reaches(guest, NETWORK.gateway, 53), "gateway_tcp"
        assert not bed.reaches(guest, NETWORK.gateway, 22)
        assert not bed.reaches(guest, Bed.uplink_address, 22), "the host's other addresses"
        assert bed.reaches(guest, Bed.world, 53), "dns"
        assert not bed.reaches(guest, Bed.world, 80)
        assert bed.reaches("host", {"a": A, "b": B}[guest].address, 8000), "the host reaches the API"
    assert bed.reaches("a", Bed.world, 443), "spec.network.allow"
    assert not bed.reaches("b", Bed.world, 443), "that is a's"


def test_guests_do_not_meet_by_way_of_the_gateway(bed: Bed, tmp_path: Path) -> None:
    isolate(bed, wanted=True)
    bed.inside("a", "ip", "route", "add", f"{B.address}/32", "via", NETWORK.gateway)
    bed.inside("b", "ip", "route", "add", f"{A.address}/32", "via", NETWORK.gateway)
    try:
        bed.filter(f"table inet {TABLE}\ndelete table inet {TABLE}")
        assert bed.reaches("a", B.address, 8000), "the gateway would forward"
        load(bed, tmp_path)
        assert not bed.reaches("a", B.address, 8000)
        assert not bed.pings("b", A.address)
    finally:
        bed.inside("a", "ip", "route", "delete", f"{B.address}/32")
        bed.inside("b", "ip", "route", "delete", f"{A.address}/32")


def test_a_guest_speaks_only_as_itself(bed: Bed, tmp_path: Path) -> None:
    load(bed, tmp_path)
    bed.inside("a", "ip", "address", "add", "10.213.0.99/24", "dev", "eth0")
    bed.inside("a", "ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    assert not bed.pings("a", NETWORK.gateway), "another MAC"
    bed.inside("a", "ip", "link", "set", "eth0", "address", A.mac)
    assert bed.pings("a", NETWORK.gateway)
    assert not bed.reaches("a", NETWORK.gateway, 53, source="10.213.0.99"), "another address"
    bed.inside("a", "ip", "address", "delete", "10.213.0.99/24", "dev", "eth0")


def test_the_outside_reaches_the_api_only_as_a_client(bed: Bed, tmp_path: Path) -> None:
    load(bed, tmp_path)
    assert not bed.reaches("world", A.address, 8000)
    load(bed, tmp_path, network_of({**SETTINGS, "clients": [Bed.world]}))
    assert bed.reaches("world", A.address, 8000)
    assert not bed.reaches("world", A.address, 22)


def test_a_forward_leads_from_the_uplink_to_its_runtime_alone(bed: Bed, tmp_path: Path) -> None:
    isolate(bed, wanted=True)
    load(bed, tmp_path)
    assert bed.reaches("world", Bed.uplink_address, 9000)
    assert bed.reaches("world", Bed.uplink_address, 9022)
    assert not bed.reaches("world", Bed.uplink_address, 9001)
    assert not bed.reaches("world", B.address, 8000), "the way is the host's port, not a route"
    assert not bed.reaches("a", Bed.uplink_address, 9000), "not a way to another runtime"
    assert not bed.reaches("a", NETWORK.gateway, 9000)
    (tmp_path / "b.nft").write_text(
        guest_policy(guest_of(NETWORK, "b", B.address, forward=[{"host_port": 9000, "host_address": "192.0.2.99"}]))
    )
    bed.filter(policy(NETWORK, str(tmp_path)))
    assert not bed.reaches("world", Bed.uplink_address, 9000), "another address of the host's"


def test_one_runtime_goes_and_the_other_stays(bed: Bed, tmp_path: Path) -> None:
    load(bed, tmp_path)
    (tmp_path / "b.nft").unlink()
    bed.filter(policy(NETWORK, str(tmp_path)))
    assert bed.reaches("a", Bed.world, 443)
    assert not bed.pings("b", NETWORK.gateway), "nobody speaks from a tap that belongs to no runtime"


def test_without_an_uplink_only_the_gateway_is_there(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "b.nft").write_text(guest_policy(B))
    bed.filter(policy(network_of({}), str(tmp_path)))
    assert bed.pings("b", NETWORK.gateway)
    assert not bed.reaches("b", Bed.world, 53)
