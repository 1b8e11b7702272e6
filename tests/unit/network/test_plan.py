"""Addresses on the isolated network: deterministic, stable when others come and go, and possible."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import (
    NetworkError,
    address_plan,
    guest_of,
    mac_address,
    network_of,
    runtime_network,
)
from vllmd_hypervisor.network import derive_mac, parse_network

NETWORK = network_of({"subnet": "10.213.0.0/28", "uplink": "eth0", "dns": ["192.0.2.53"]})
PLACES = 13  # 16 addresses without the two ends and the gateway
names = st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), unique=True, max_size=PLACES)


@settings(max_examples=200, deadline=None)
@given(first=names, then=names)
def test_addresses_are_distinct_possible_and_stable(first: list[str], then: list[str]) -> None:
    plan = address_plan(NETWORK, first)
    assert sorted(plan) == sorted(first)
    assert len(set(plan.values())) == len(first)
    hosts = set(map(str, NETWORK.subnet.hosts())) - {NETWORK.gateway}
    assert set(plan.values()) <= hosts
    assert address_plan(NETWORK, list(reversed(first))) == plan, "the order of the names does not matter"
    assert address_plan(NETWORK, first, plan) == plan, "again changes nothing"
    later = address_plan(NETWORK, then, plan)
    assert {name: later[name] for name in set(first) & set(then)} == {
        name: plan[name] for name in set(first) & set(then)
    }, "who stays keeps its address"
    assert len(set(later.values())) == len(then)


def test_an_address_is_kept_for_who_comes_back_while_there_are_others() -> None:
    plan = address_plan(NETWORK, ["a", "b"])
    for name in "cdefghijk":
        alone = address_plan(NETWORK, [name], plan)
        assert not set(alone.values()) & set(plan.values())


def test_what_is_not_in_the_subnet_any_more_is_placed_anew() -> None:
    assert ipaddress.IPv4Address(address_plan(NETWORK, ["a"], {"a": "192.0.2.1"})["a"]) in NETWORK.subnet
    assert address_plan(NETWORK, ["a"], {"a": NETWORK.gateway})["a"] != NETWORK.gateway


def test_a_full_subnet_is_one_sentence() -> None:
    everybody = [f"r{number}" for number in range(PLACES)]
    assert len(address_plan(NETWORK, everybody)) == PLACES
    with pytest.raises(NetworkError, match=r"has 13 addresses for runtimes, and \w+ is one more; set a larger"):
        address_plan(NETWORK, [*everybody, "one-more"])


def test_the_launcher_derives_the_same_mac() -> None:
    assert mac_address("smollm2") == derive_mac("smollm2")
    guest = guest_of(NETWORK, "smollm2", "10.213.0.5")
    assert parse_network(f"mode=tap,tap={guest.tap}", "smollm2").mac == guest.mac


def test_a_runtimes_network_says_all_that_the_host_decided() -> None:
    allow = [{"to": "192.0.2.0/24", "tcp": [443], "udp": []}]
    forward = [{"host_address": "192.0.2.1", "host_port": 9000, "guest_port": 8000}]
    guest = guest_of(NETWORK, "a", "10.213.0.5", allow, forward)
    assert runtime_network(NETWORK, guest, allow, forward) == {
        "mode": "isolated",
        "allow": allow,
        "forward": forward,
        "tap": "vllmdtca978112c",
        "mac": "02:ca:97:81:12:ca",
        "address": "10.213.0.5/28",
        "gateway": "10.213.0.1",
        "dns": ["192.0.2.53"],
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"subnets": "x"}, "hypervisor_network.subnets is not a known field; known: bridge, subnet"),
        ({"subnet": "10.0.0.0"}, "hypervisor_network.subnet: '10.0.0.0' is too small; give at least a /30"),
        ({"subnet": "10.0.0.1/24"}, "hypervisor_network.subnet: '10.0.0.1/24' is no IPv4 address or network"),
        ({"subnet": 7}, "hypervisor_network.subnet: 7 is no IPv4 address or network"),
        ({"bridge": 'a" drop'}, "hypervisor_network.bridge: 'a\" drop' is no interface name"),
        ({"bridge": ""}, "hypervisor_network.bridge: '' is no interface name"),
        ({"uplink": "vllmd0"}, "hypervisor_network.uplink is the bridge itself"),
        ({"dns": ["192.0.2.1"]}, "hypervisor_network.dns needs uplink"),
        ({"uplink": "eth0", "dns": ["192.0.2.0/24"]}, "a name server is an address, not a network"),
        ({"uplink": "eth0", "dns": "192.0.2.1"}, "dns: '192.0.2.1' is no list"),
        ({"gateway_tcp": [0]}, "gateway_tcp: 0 is no port"),
        ({"gateway_udp": [True]}, "gateway_udp: True is no port"),
    ],
)
def test_a_wrong_network_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NetworkError) as caught:
        network_of(settings)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_host_cannot_give_is_refused() -> None:
    closed = network_of({})
    with pytest.raises(NetworkError, match=r"runtime a may reach 192\.0\.2\.0/24 .* its host has no uplink"):
        guest_of(closed, "a", "10.213.0.9", [{"to": "192.0.2.0/24", "tcp": [443]}])
    with pytest.raises(NetworkError, match=r"runtime a: 192\.0\.2\.1 is not in the subnet"):
        guest_of(closed, "a", "192.0.2.1")
