# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The kernel's main routing tables and TCP connections, from /proc/net; policy routing's other tables are not there."""

from __future__ import annotations

import ipaddress
import sys
from typing import TypeAlias

from .tree import Tree, parse_integer

_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_REJECT, _UP = 0x0200, 0x0001
_ESTABLISHED = "01"
_MOST_BYTES = 4 * 1024 * 1024


class Routes:
    """Says which interface leads to an address."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        #: (version, network as a number, mask as a number, metric, interface)
        self._rows: list[tuple[int, int, int, int, str]] = []
        self._read_ipv4()
        self._read_ipv6()

    def default_interfaces(self) -> list[str]:
        """Return the interfaces of all default routes, whatever their metrics: each may be needed any moment."""
        return sorted({row[4] for row in self._rows if row[2] == 0})

    def interface_to(self, address: str) -> str | None:
        """Return the interface of the most specific route; None for this host's own addresses and for no address."""
        name, _percent, zone = address.partition("%")
        found = _address(name)
        if found is not None and zone:
            return zone  # A link-local address says itself which link it is local to.
        if found is None or found.is_loopback:
            return None
        number = int(found)
        matches = [row for row in self._rows if row[0] == found.version and number & row[2] == row[1]]
        return max(matches, key=lambda row: (row[2], -row[3]))[4] if matches else None

    def connected_to(self, port: int) -> list[str]:
        """Return the peers of established connections to a local TCP port."""
        peers = set()
        for path in ("proc/net/tcp", "proc/net/tcp6"):
            for line in self._tree.lines(path, _MOST_BYTES)[1:]:
                words = line.split()
                if len(words) > 3 and words[3] == _ESTABLISHED and words[1].endswith(f":{port:04X}"):
                    peer = _from_kernel(words[2].partition(":")[0])
                    if peer is not None and not peer.is_loopback:
                        peers.add(str(peer))
        return sorted(peers)

    def _read_ipv4(self) -> None:
        for line in self._tree.lines("proc/net/route", _MOST_BYTES)[1:]:
            words = line.split()
            if len(words) < 8:
                continue
            flags, metric = parse_integer(words[3], 16), parse_integer(words[6])
            network, mask = _from_kernel(words[1]), _from_kernel(words[7])
            if flags is None or not flags & _UP or flags & _REJECT or network is None or mask is None:
                continue
            self._rows.append((4, int(network), int(mask), metric or 0, words[0]))

    def _read_ipv6(self) -> None:
        for line in self._tree.lines("proc/net/ipv6_route", _MOST_BYTES):
            words = line.split()
            if len(words) < 10 or words[9] == "lo":
                continue
            network, length, metric, flags = (parse_integer(words[each], 16) for each in (0, 1, 5, 8))
            if network is None or length is None or length > 128 or flags is None or flags & _REJECT:
                continue
            mask = ((1 << length) - 1) << (128 - length)
            self._rows.append((6, network, mask, metric or 0, words[9]))


def _address(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _from_kernel(text: str) -> _Address | None:
    """Return the address that /proc/net prints: words of 32 bits in the machine's byte order, in hexadecimal."""
    if len(text) not in (8, 32):
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    if sys.byteorder == "little":
        data = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    if len(data) == 4:
        return ipaddress.IPv4Address(data)
    found = ipaddress.IPv6Address(data)
    return found.ipv4_mapped or found
