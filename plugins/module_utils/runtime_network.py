# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host's isolated network: which runtime has which address on it, and what each may reach.

Pure functions over plain data. The host has one bridge without a port to the outside; each runtime is a tap on it. The
host's own address, the first of the subnet, is every runtime's gateway.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The kernel's IFNAMSIZ less its terminator; the characters are those that need no quoting anywhere.
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)
#: By which the packet filter knows every runtime's tap, also one that belongs to no runtime any more. Nine digits fit.
TAP_PREFIX = "vllmdt"
_TAP_DIGITS = 9
_FIELDS = ("bridge", "subnet", "uplink", "dns", "clients", "gateway_tcp", "gateway_udp")
#: A subnet has to hold its own two ends, the gateway and a runtime.
_LONGEST_PREFIX = 30
_LARGEST_PORT = 65535
API_PORT = 8000


class NetworkError(ValueError):
    """The network is not possible; the message is one line."""


@dataclass(frozen=True)
class Network:
    """One host's isolated network. Without ``uplink`` a runtime reaches its gateway and nothing else."""

    bridge: str
    subnet: ipaddress.IPv4Network
    uplink: str = ""
    dns: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    gateway_tcp: tuple[int, ...] = ()
    gateway_udp: tuple[int, ...] = ()

    @property
    def gateway(self) -> str:
        """Return the host's address on the bridge."""
        return str(self.subnet.network_address + 1)


@dataclass(frozen=True)
class Allow:
    """What a runtime may reach: an address or network, and the TCP and UDP ports there."""

    to: str
    tcp: tuple[int, ...]
    udp: tuple[int, ...]


@dataclass(frozen=True)
class Forward:
    """A TCP port of the host's uplink that leads to the runtime; ``address`` empty: whichever the uplink has."""

    address: str
    port: int
    guest_port: int


@dataclass(frozen=True)
class Guest:
    """One runtime on the network."""

    name: str
    tap: str
    mac: str
    address: str
    allow: tuple[Allow, ...] = ()
    forward: tuple[Forward, ...] = ()


def network_of(settings: Mapping[str, Any]) -> Network:
    """Return the network that ``hypervisor_network`` describes. Raises NetworkError with the field that is wrong."""
    for field in settings:
        if field not in _FIELDS:
            raise NetworkError(f"hypervisor_network.{field} is not a known field; known: {', '.join(_FIELDS)}")
    subnet = _subnet(settings.get("subnet", "10.213.0.0/24"))
    names = {key: str(settings.get(key, default)) for key, default in (("bridge", "vllmd0"), ("uplink", ""))}
    for key, name in names.items():
        if not _INTERFACE.fullmatch(name) and (name or key == "bridge"):
            raise NetworkError(f"hypervisor_network.{key}: {name!r} is no interface name of at most 15 characters")
    if names["bridge"] == names["uplink"]:
        raise NetworkError("hypervisor_network.uplink is the bridge itself; name the interface to the outside")
    network = Network(
        bridge=names["bridge"],
        subnet=subnet,
        uplink=names["uplink"],
        dns=_networks(settings, "dns"),
        clients=_networks(settings, "clients"),
        gateway_tcp=_ports(settings, "gateway_tcp"),
        gateway_udp=_ports(settings, "gateway_udp"),
    )
    for key, value in (("dns", network.dns), ("clients", network.clients)):
        if value and not network.uplink:
            raise NetworkError(f"hypervisor_network.{key} needs uplink, the interface that leads there; set it")
    if any("/" in server for server in network.dns):
        raise NetworkError("hypervisor_network.dns: a name server is an address, not a network")
    return network


def address_plan(network: Network, names: Iterable[str], current: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an IPv4 address for each of ``names``.

    Who has one in ``current`` keeps it, as long as it is in the subnet, whoever comes or goes. The others get the place
    that a hash of their name says, or the next free one: so a name has the same address on a host set up anew, unless
    two collide. Raises NetworkError when the subnet is full.
    """
    first, places = int(network.subnet.network_address) + 2, network.subnet.num_addresses - 3
    wanted = sorted(set(names))
    taken: dict[int, str] = {}
    # What is not wanted now may come back: it is only given away when nothing else is left.
    for name, address in sorted((current or {}).items()):
        place = int(ipaddress.IPv4Address(address)) - first
        if 0 <= place < places:
            taken.setdefault(place, name)
    plan = {name: place for place, name in taken.items() if name in wanted}
    for name in wanted:
        if name not in plan:
            plan[name] = _free_place(network, name, places, taken, set(plan.values()))
            taken[plan[name]] = name
    return {name: str(ipaddress.IPv4Address(first + plan[name])) for name in wanted}


def _free_place(network: Network, name: str, places: int, taken: Mapping[int, str], used: set[int]) -> int:
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % places
    for reserved in (taken, used):
        for step in range(places):
            place = (start + step) % places
            if place not in reserved:
                return place
    raise NetworkError(
        f"the subnet {network.subnet} has {places} addresses for runtimes, and {name} is one more; "
        "set a larger hypervisor_network.subnet"
    )


def tap_name(name: str) -> str:
    """Return the name of the runtime's tap on the network: always the same, as long as the kernel allows."""
    return TAP_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:_TAP_DIGITS]


def mac_address(name: str) -> str:
    """Return the runtime's MAC address, the one that the launcher derives from the same name."""
    digest = hashlib.sha256(name.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def guest_of(
    network: Network,
    name: str,
    address: str,
    allow: Iterable[Mapping[str, Any]] = (),
    forward: Iterable[Mapping[str, Any]] = (),
) -> Guest:
    """Return the runtime ``name`` on the network. Raises NetworkError when it cannot be there as the rest says."""
    if ipaddress.IPv4Address(address) not in network.subnet:
        raise NetworkError(f"runtime {name}: {address} is not in the subnet {network.subnet}; leave the address out")
    rules = tuple(
        Allow(
            to=str(_network(f"runtime {name}: spec.network.allow", each["to"])),
            tcp=_ports(each, "tcp"),
            udp=_ports(each, "udp"),
        )
        for each in allow
    )
    if rules and not network.uplink:
        raise NetworkError(
            f"runtime {name} may reach {rules[0].to} by spec.network.allow, but its host has no uplink; "
            "set hypervisor_network.uplink or remove allow"
        )
    ways = tuple(_forward(name, each) for each in forward)
    if ways and not network.uplink:
        raise NetworkError(
            f"runtime {name} is reached at port {ways[0].port} by spec.network.forward, but its host has no uplink; "
            "set hypervisor_network.uplink or remove forward"
        )
    return Guest(name, tap_name(name), mac_address(name), address, rules, ways)


def _forward(name: str, forward: Mapping[str, Any]) -> Forward:
    ports = [forward["host_port"], forward.get("guest_port", API_PORT)]
    for port in ports:
        _ports({f"runtime {name}: spec.network.forward": [port]}, f"runtime {name}: spec.network.forward")
    address = ipaddress.IPv4Address(forward.get("host_address") or 0)
    if address.is_loopback:
        raise NetworkError(
            f"runtime {name}: spec.network.forward: {address} is the host's loopback; name an address of its uplink"
        )
    return Forward("" if int(address) == 0 else str(address), *ports)


def check_forwards(guests: Iterable[Guest]) -> None:
    """Raise NetworkError when two of one host's runtimes want the same port of it."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for guest in guests:
        for way in guest.forward:
            for address, owner in owners.setdefault(way.port, []):
                if not address or not way.address or address == way.address:
                    where = f"{way.address or address or 'every address'}, port {way.port}"
                    raise NetworkError(
                        f"runtimes {owner} and {guest.name} are on one host, and spec.network.forward of both wants "
                        f"{where}; give one of them another host_port, or other placement.hosts"
                    )
            owners[way.port].append((way.address, guest.name))


def runtime_network(
    network: Network, guest: Guest, allow: Iterable[Mapping[str, Any]], forward: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the runtime's ``spec.network`` with all that the host decided; the tap is on its bridge already."""
    return {
        "mode": "isolated",
        "allow": list(allow),
        "forward": list(forward),
        "tap": guest.tap,
        "mac": guest.mac,
        "address": f"{guest.address}/{network.subnet.prefixlen}",
        "gateway": network.gateway,
        "dns": list(network.dns),
    }


def _subnet(value: object) -> ipaddress.IPv4Network:
    subnet = _network("hypervisor_network.subnet", value)
    if subnet.prefixlen > _LONGEST_PREFIX:
        raise NetworkError(f"hypervisor_network.subnet: {value!r} is too small; give at least a /{_LONGEST_PREFIX}")
    return subnet


def _network(field: str, value: object) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(value if isinstance(value, str) else "")
    except ValueError:
        raise NetworkError(f"{field}: {value!r} is no IPv4 address or network such as 192.0.2.0/24") from None


def _networks(settings: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = (_network(f"hypervisor_network.{key}", each) for each in _list(settings, key))
    return tuple(str(each.network_address if each.prefixlen == each.max_prefixlen else each) for each in found)


def _ports(settings: Mapping[str, Any], key: str) -> tuple[int, ...]:
    ports = _list(settings, key)
    for port in ports:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= _LARGEST_PORT:
            raise NetworkError(f"{key}: {port!r} is no port, 1 to {_LARGEST_PORT}")
    return tuple(sorted(set(ports)))


def _list(settings: Mapping[str, Any], key: str) -> list[Any]:
    value = settings.get(key) or []
    if not isinstance(value, (list, tuple)):
        raise NetworkError(f"{key}: {value!r} is no list")
    return list(value)
