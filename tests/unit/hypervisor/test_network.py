"""VLLMD_HYPERVISOR_NETWORK."""

from __future__ import annotations

import pytest

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.network import Forward, Network, derive_mac, parse_network

MAC = derive_mac("r1")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("none", Network()),
        ("mode=none", Network()),
        ("mode=user", Network("user", MAC)),
        (
            "mode=user,forward=127.0.0.1:8000:8000,forward=192.0.2.1:2222:22",
            Network("user", MAC, (Forward("127.0.0.1", 8000, 8000), Forward("192.0.2.1", 2222, 22))),
        ),
        ("mode=tap,tap=vmtap0", Network("tap", MAC, (), "vmtap0")),
        (
            "mode=tap,tap=vmtap0,bridge=br0,mac=52:54:00:AB:cd:ef",
            Network("tap", "52:54:00:ab:cd:ef", (), "vmtap0", "br0"),
        ),
    ],
)
def test_accepted(text: str, network: Network) -> None:
    assert parse_network(text, "r1") == network


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tap", "'tap' is not key=value"),
        ("tap=vmtap0", "has no mode"),
        ("mode=bridge", "must be none, user or tap"),
        ("mode=tap", "mode=tap needs tap=NAME"),
        ("mode=user,tap=x", "tap does not go with mode=user"),
        ("mode=tap,tap=x,forward=127.0.0.1:1:1", "forward does not go with mode=tap"),
        ("mode=none,mac=52:54:00:00:00:01", "mac does not go with mode=none"),
        ("mode=user,mode=tap", "mode is given twice"),
        ("mode=user,port=80", "unknown network key 'port'"),
        ("mode=tap,tap=" + "x" * 16, "longer than 15 bytes"),
        ("mode=tap,tap=a/b", "is not an interface name"),
        ("mode=tap,tap=..", "is not an interface name"),
        ("mode=tap,tap=x,mac=52:54:00", "not six hexadecimal bytes"),
        ("mode=tap,tap=x,mac=5g:54:00:00:00:01", "not six hexadecimal bytes"),
        ("mode=tap,tap=x,mac=53:54:00:00:00:01", "multicast"),
        ("mode=user,forward=8000:8000", "not HOST_ADDRESS:HOST_PORT:GUEST_PORT"),
        ("mode=user,forward=localhost:8000:8000", "'localhost' is not an IPv4 address"),
        ("mode=user,forward=127.0.0.256:1:1", "is not an IPv4 address"),
        ("mode=user,forward=127.0.0.01:1:1", "is not an IPv4 address"),
        ("mode=user,forward=127.0.0.1:0:80", "a port must be from 1 to 65535"),
        ("mode=user,forward=127.0.0.1:80:65536", "a port must be from 1 to 65535"),
        ("mode=user,forward=127.0.0.1:http:80", "a port must be a whole number"),
        ("mode=user,forward=127.0.0.1:80:80,forward=127.0.0.1:80:81", "127.0.0.1:80 is forwarded twice"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        parse_network(text, "r1")
    assert words in str(caught.value)


def test_a_derived_mac_is_stable_local_and_unicast() -> None:
    assert derive_mac("r1") == derive_mac("r1") != derive_mac("r2")
    first = int(derive_mac("r1").split(":")[0], 16)
    assert first & 2
    assert not first & 1
