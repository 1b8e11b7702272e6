# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Why a host cannot be a member of a control plane, one line for each reason: where, what, why, and what to do."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

#: kubernetes.io, "Ports and Protocols". The API server's own port is a setting.
PORTS = {2379: "etcd", 2380: "etcd, for the other members", 10257: "kube-controller-manager", 10259: "kube-scheduler"}
#: Flag of an entry that has been answered for (include/uapi/linux/if_arp.h, ATF_COM).
_COMPLETE = 0x2


@dataclass(frozen=True)
class Host:
    """One host: its own address, all that it has, the TCP ports in use, and whether nothing of a cluster runs yet.

    ``has_balancer`` is whether HAProxy is this collection's already.
    """

    address: str
    local: tuple[str, ...]
    listening: frozenset[int]
    is_new: bool
    has_balancer: bool = False


def problems(host: Host, *, port: int, virtual_address: str, balancer_port: int) -> list[str]:
    """Return why the host cannot be a member; empty when nothing stands against it."""
    found = []
    if not host.address:
        found.append(
            "address: the host has no default route; name the member's own address (runtime_controller_address)"
        )
    elif host.address not in host.local:
        found.append(f"address: {host.address} is on no interface of this host; correct runtime_controller_address")
    if virtual_address:
        found += _virtual(host, port, virtual_address, balancer_port)
    if host.is_new:
        needed = {port: "kube-apiserver", **PORTS}
        if virtual_address and not host.has_balancer:
            needed[balancer_port] = "HAProxy"
        found += [
            f"port: {number} is in use, and {what} needs it; 'ss -ltnp sport = :{number}' says by whom, stop that"
            for number, what in sorted(needed.items())
            if number in host.listening
        ]
    return found


def _virtual(host: Host, port: int, virtual_address: str, balancer_port: int) -> list[str]:
    found = []
    try:
        ipaddress.ip_address(virtual_address)
    except ValueError:
        return [f"virtual address: {virtual_address[:60]!r} is no address; write one such as 10.0.0.10"]
    if virtual_address == host.address:
        found.append(
            f"virtual address: {virtual_address} is this member's own; take one that no host has "
            "(runtime_controller_virtual_address)"
        )
    if port == balancer_port:
        found.append(
            f"port: {port} is asked for the API server and for HAProxy on the same hosts; give them two "
            "(runtime_controller_api_port, runtime_controller_balancer_port)"
        )
    return found


def is_resolved(table: str, address: str) -> bool:
    """Return whether somebody has answered for the address, from the text of /proc/net/arp (proc(5))."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[0] == address and int(fields[2], 16) & _COMPLETE:
            return True
    return False
