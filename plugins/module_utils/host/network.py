# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Network interfaces down to their PCI functions, and which of them the host must keep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from .model import Interface, Network
from .routes import Routes
from .storage import Mount
from .tree import Tree, bdfs_in

_NET = "sys/class/net"
_SSH_PORT = 22
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "ceph", "glusterfs", "lustre", "beegfs")
_SERVER = re.compile(r"(?://)?(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?=[:/,@]|$)")
_ADDRESS = re.compile(r"(?:^|,)addr=([0-9a-fA-F:.]+)")
_PARENT = re.compile(r"^PPid:\s*([0-9]+)$", re.MULTILINE)
_MOST_ANCESTORS = 64


def read_network(tree: Tree, mounts: list[Mount]) -> Network:
    """Return the interfaces, and those that carry the default route, ssh sessions and network file systems."""
    interfaces = _with_hardware(
        {name: _interface(tree, name) for name in tree.names(_NET) if _is_interface(tree, name)}
    )
    routes = Routes(tree)
    # Only where nothing else tells: the kernel walks its whole table of connections, which is never quick.
    peers = sorted(set(_ssh_peers(tree) or routes.connected_to(_SSH_PORT)))
    servers = {_server(mount) for mount in mounts if mount.filesystem in _NETWORK_FILESYSTEMS}
    return Network(
        interfaces=interfaces,
        default_route_interfaces=tuple(routes.default_interfaces()),
        ssh_interfaces=_known(routes.interface_to(peer) for peer in peers),
        ssh_peers=tuple(peers),
        storage_interfaces=_known(routes.interface_to(server) for server in servers if server),
        ipv4_forwarding=tree.flag("proc/sys/net/ipv4/ip_forward"),
        ipv6_forwarding=tree.flag("proc/sys/net/ipv6/conf/all/forwarding"),
    )


def _known(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name}))


def _server(mount: Mount) -> str | None:
    """Return the address of a network file system's server; a name alone would have to be looked up."""
    known = _ADDRESS.search(mount.details)
    if known:
        return known[1]
    named = _SERVER.match(mount.source)
    return named[1] or named[2] if named else None


def _is_interface(tree: Tree, name: str) -> bool:
    return tree.is_directory(f"{_NET}/{name}")


def _interface(tree: Tree, name: str) -> Interface:
    base = f"{_NET}/{name}"
    files = tree.names(base)
    state = tree.word(f"{base}/operstate")
    uevent = dict(line.split("=", 1) for line in tree.lines(f"{base}/uevent") if "=" in line)
    # The kernel refuses these two while an interface is down.
    carrier, speed = tree.flag(f"{base}/carrier"), tree.integer(f"{base}/speed")
    virtual_function = tree.link_name(f"{base}/device/physfn") if "device" in files else None
    hardware = [*bdfs_in(tree.link_path(base) or ""), *([virtual_function] if virtual_function else [])]
    return Interface(
        name=name,
        state=state,
        mac=tree.word(f"{base}/address"),
        mtu_bytes=tree.count(f"{base}/mtu"),
        speed_mbps=speed if speed is not None and speed > 0 else None,
        carrier=carrier,
        driver=tree.link_name(f"{base}/device/driver") if "device" in files else None,
        kind=uevent.get("DEVTYPE"),
        master=tree.link_name(f"{base}/master") if "master" in files else None,
        lowers=tuple(each.removeprefix("lower_") for each in files if each.startswith("lower_")),
        pci_devices=tuple(hardware),
    )


def _with_hardware(interfaces: dict[str, Interface]) -> dict[str, Interface]:
    """Return the interfaces with the hardware of all they work through."""
    ports: dict[str, set[str]] = {}
    for interface in interfaces.values():
        if interface.master:
            ports.setdefault(interface.master, set()).add(interface.name)

    def below(name: str) -> set[str]:
        seen: set[str] = set()
        pending = [name]
        while pending:
            each = pending.pop()
            interface = interfaces.get(each)
            if interface is None or each in seen:
                continue
            seen.add(each)
            pending += [*interface.lowers, *ports.get(each, ())]
            # An Open vSwitch bridge is a port of the switch itself: any other port may be its way out.
            if interface.master == "ovs-system" and not interface.pci_devices:
                pending += ports["ovs-system"]
        return {bdf for each in seen for bdf in interfaces[each].pci_devices}

    return {
        name: replace(interface, pci_devices=tuple(sorted(below(name))))
        for name, interface in sorted(interfaces.items())
    }


def _ssh_peers(tree: Tree) -> list[str]:
    """Return who is logged in where this process was started from: SSH_CONNECTION of it and of its ancestors.

    sudo clears the variable, so its callers are asked too.
    """
    peers = []
    pid = "self"
    for _step in range(_MOST_ANCESTORS):
        for entry in (tree.content(f"proc/{pid}/environ", quiet=True) or b"").split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION="):
                peers.append(entry.partition(b"=")[2].decode("ascii", "replace").partition(" ")[0])
        parent = _PARENT.search(tree.text(f"proc/{pid}/status") or "")
        if parent is None or parent[1] in ("0", "1"):
            break
        pid = parent[1]
    return peers
