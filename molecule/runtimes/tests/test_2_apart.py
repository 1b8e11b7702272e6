"""Guests on one bridge do not reach each other, on the wire or by way of the gateway; what they may reach, they do.

Commands run in the guests, as root, over ssh with the operator's key: what a tenant could do at most.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Replica, named, replicas

PROBE = (Path(__file__).parent / "probe.py").read_text(encoding="utf-8")
# Local experimental (IEEE 802).
PLAIN = "88b5"
GATEWAY = "10.213.0.1"


def probe(replica: Replica, *tries: list[Any]) -> list[Any]:
    """What came of each try, from within the guest."""
    return json.loads(replica.inside(f"python3 -B - {shlex.quote(json.dumps(tries))}", PROBE))


@pytest.fixture(scope="module")
def birch() -> Replica:
    """The one that may ask amber's API on the other host."""
    return named("birch")


@pytest.fixture(scope="module")
def beside(birch: Replica) -> Replica:
    """The guest on birch's own bridge."""
    return next(each for each in replicas().values() if each.host_address == birch.host_address and each != birch)


@pytest.fixture(scope="module")
def away(birch: Replica) -> Replica:
    """The guest on the other host."""
    return next(each for each in replicas().values() if each.host_address != birch.host_address)


def test_a_guest_reaches_its_gateway(birch: Replica, beside: Replica) -> None:
    for guest in (birch, beside):
        mac = guest.host.check_output("cat /sys/class/net/vllmd0/address")
        assert probe(guest, ["arp", "eth0", GATEWAY], ["ping", GATEWAY]) == [mac, "answered"]


def test_no_service_of_the_host_is_open_to_a_guest(birch: Replica) -> None:
    assert "connected" not in probe(birch, ["tcp", GATEWAY, 22], ["tcp", birch.host_address, 22])


def test_nothing_passes_between_guests_on_the_wire(birch: Replica, beside: Replica) -> None:
    """One listens to all frames; the other asks for it by ARP, sends to its MAC, to all, and with its place known."""
    listener = beside.begin(f"python3 -B - {shlex.quote(json.dumps([['listen', 'eth0', 25]]))}", PROBE)
    assert listener.stderr is not None
    assert listener.stderr.readline() == "listening\n"
    answers = probe(
        birch,
        ["arp", "eth0", beside.address],
        ["neighbour", "eth0", beside.address, beside.mac],
        *([["frame", "eth0", beside.mac, PLAIN], ["frame", "eth0", "ff:ff:ff:ff:ff:ff", PLAIN]] * 3),
        ["tcp", beside.address, 8000],
    )
    # That the listener hears what does arrive is shown by a frame of the host's own, the last of all.
    frame = shlex.quote(json.dumps([["frame", "vllmd0", beside.mac, PLAIN]]))
    beside.host.check_output(f"python3 -B -c {shlex.quote(PROBE)} {frame}")
    bridge = beside.host.check_output("cat /sys/class/net/vllmd0/address")
    heard = json.loads(listener.communicate(timeout=120)[0])[0]
    assert f"{PLAIN} {bridge}" in heard
    assert not [line for line in heard if birch.mac in line]
    assert answers[:2] == ["", ""]
    assert answers[-1] != "connected"


def test_guests_do_not_meet_by_way_of_the_gateway(birch: Replica, beside: Replica) -> None:
    for one, other in ((birch, beside), (beside, birch)):
        one.inside(f"ip route replace {other.address}/32 via {GATEWAY}")
        assert "connected" not in probe(one, ["tcp", other.address, 8000], ["tcp", other.host_address, other.api_port])
        one.inside(f"ip route delete {other.address}/32")


def test_an_api_is_reached_by_who_may_and_by_no_other(birch: Replica, beside: Replica, away: Replica) -> None:
    # birch's manifest allows amber's port; amber's allows nothing.
    assert probe(birch, ["tcp", away.host_address, away.api_port]) == ["connected"]
    assert "connected" not in probe(birch, ["tcp", away.host_address, away.ssh_port], ["tcp", away.address, 8000])
    assert "connected" not in probe(away, ["tcp", birch.host_address, birch.api_port])
    assert "connected" not in probe(beside, ["tcp", away.host_address, away.api_port])
