# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Can clients, images and models reach this host and its guests?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import debian_architecture, join, sysctl
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, Interface

_GIGABIT_MBPS = 1000


def _uplinks(host: Host) -> list[Interface]:
    """Return the interfaces that carry a default route."""
    network = host.network
    return [network.interfaces[name] for name in network.default_route_interfaces if name in network.interfaces]


@check(
    "default-route",
    "network",
    "The host has a default route",
    why="Images, models and clients come over it.",
    reference="ip-route(8)",
)
def default_route(host: Host, _policy: Policy) -> Outcome:
    """WARN without one."""
    if not host.network.interfaces:
        return unknown("/sys/class/net")
    if host.network.default_route_interfaces:
        return Outcome(PASS, f"by {join(host.network.default_route_interfaces)}")
    return Outcome(
        WARN,
        f"none; interfaces: {join(host.network.interfaces)}",
        "set a gateway in the host's network configuration (systemd.network(5), Gateway=)",
    )


@check(
    "uplink-state",
    "network",
    "The way out has a link",
    why="An interface that is configured and unplugged keeps its route, and everything times out.",
    reference="Linux: Documentation/ABI/testing/sysfs-class-net, carrier, operstate",
)
def uplink_state(host: Host, _policy: Policy) -> Outcome:
    """FAIL when no interface of the default route has a carrier."""
    uplinks = _uplinks(host)
    if not uplinks:
        return Outcome(SKIP, "no default route")
    if all(item.carrier is None for item in uplinks):
        return unknown("the carrier of " + join(item.name for item in uplinks))
    up = [item.name for item in uplinks if item.carrier]
    if up:
        return Outcome(PASS, join(up))
    return Outcome(
        FAIL,
        f"no carrier: {join(item.name for item in uplinks)}",
        f"ip link set {uplinks[0].name} up; check cable and switch port",
    )


@check(
    "uplink-speed",
    "network",
    "The way out is a gigabit or faster",
    why="A model of 60 GB takes eight minutes over a gigabit, and an hour and a half over 100 megabits.",
    reference="Linux: Documentation/ABI/testing/sysfs-class-net, speed",
)
def uplink_speed(host: Host, _policy: Policy) -> Outcome:
    """WARN below 1000 Mbit/s, SKIP where the driver does not tell (virtual interfaces)."""
    speeds = {item.name: item.speed_mbps for item in _uplinks(host) if item.speed_mbps and item.speed_mbps > 0}
    if not speeds:
        return Outcome(SKIP, "no interface of the default route tells its speed")
    evidence = join(f"{name} {speed} Mbit/s" for name, speed in speeds.items())
    if max(speeds.values()) >= _GIGABIT_MBPS:
        return Outcome(PASS, evidence)
    return Outcome(
        WARN, evidence, f"ethtool {next(iter(speeds))} shows what both ends can; replace cable or switch port"
    )


@check(
    "network-modules",
    "network",
    "The kernel has what guests' networks need",
    why="A guest's tap needs tun; without vhost_net every packet is copied by the virtual machine monitor.",
    reference="Linux: Documentation/networking/tuntap.rst",
)
def network_modules(host: Host, _policy: Policy) -> Outcome:
    """WARN when tun or vhost_net is missing."""
    states = {name: host.modules.states.get(name) for name in ("tun", "vhost_net")}
    if None in states.values():
        return unknown("the state of tun and vhost_net")
    evidence = join(f"{name} {state}" for name, state in states.items())
    if "missing" not in states.values():
        return Outcome(PASS, evidence)
    return Outcome(
        WARN,
        evidence,
        f"apt-get install linux-image-{debian_architecture(host)} && systemctl reboot, or use mode=user networks only",
    )


@check(
    "forwarding",
    "network",
    "Packets of routed guests are forwarded",
    why="Guests on a bridge that the host routes for reach nothing while forwarding is off. User-mode networks "
    "do not need it.",
    reference="Linux: Documentation/networking/ip-sysctl.rst, ip_forward",
)
def forwarding(host: Host, _policy: Policy) -> Outcome:
    """INFO when off: whether it is needed depends on the runtimes' networks."""
    if host.network.ipv4_forwarding is None:
        return unknown("/proc/sys/net/ipv4/ip_forward")
    if host.network.ipv4_forwarding:
        return Outcome(PASS, "net.ipv4.ip_forward=1")
    return Outcome(INFO, "net.ipv4.ip_forward=0", sysctl("net.ipv4.ip_forward=1"))


@check(
    "storage-network",
    "network",
    "Network storage does not hang on an accelerator's neighbour",
    why="Where the host's files come over the network, that interface is as critical as a disk.",
    reference="docs/precheck.md",
)
def storage_network(host: Host, _policy: Policy) -> Outcome:
    """INFO that names interfaces that carry network file systems."""
    if not host.network.interfaces:
        return unknown("/sys/class/net")
    found = host.network.storage_interfaces
    return (
        Outcome(INFO, f"network storage by {join(found)}: it stays with the host")
        if found
        else Outcome(PASS, "no network storage")
    )
