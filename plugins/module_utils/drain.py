# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Draining a runtime: its host refuses new requests to it, those that run come to their end.

Pure functions. The packet filter is a table of its own, which exists while something is drained; the comment of an
element is the runtime's name. Two kinds of segments to a drained endpoint are answered by a reset: one that opens a
connection, and one that carries data, which on a connection kept alive is the next request. A request that runs sends
acknowledgements only, so its answer arrives whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .host_http import MARK

TABLE = "vllmd_drain"
_ENDPOINTS, _PORTS = "endpoints", "ports"
_ANY = "0.0.0.0"  # noqa: S104 - what a forward to every address of the host is written as
_LARGEST_PORT = 65535
_ENDPOINT = re.compile(r"((?:[0-9]{1,3}\.){3}[0-9]{1,3}):([0-9]{1,5})", re.ASCII)
#: vLLM's own: https://docs.vllm.ai, production metrics.
_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)", re.ASCII)

Endpoint = tuple[str, int]


class DrainError(ValueError):
    """It cannot be drained; the message is one line."""


def endpoint_of(text: str) -> Endpoint:
    """Return address and port of ``192.0.2.1:8000``. Raises DrainError."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[2]) <= _LARGEST_PORT:
        raise DrainError(f"endpoint {text!r} is no IPv4 address and port such as 192.0.2.10:8000")
    return match[1], int(match[2])


def ruleset(exempt_uid: int | None) -> str:
    """Return the table without its elements; ``nft -f`` makes it, or replaces the rules of one that exists.

    What the host itself asks comes through, by ``MARK`` or as user ``exempt_uid``: it has to see a drained runtime
    become idle, and a replaced one become healthy. Priority -110 is before destination NAT (-100, nft(8)), so the
    addresses are those that clients use; what arrives on the loopback was judged when it was sent.
    """
    user = f"        meta skuid {exempt_uid} accept\n" if exempt_uid is not None else ""
    return f"""table inet {TABLE}
flush table inet {TABLE}
table inet {TABLE} {{
    set {_ENDPOINTS} {{ type ipv4_addr . inet_service; }}
    set {_PORTS} {{ type inet_service; }}
    chain judge {{
        tcp flags & (syn | ack) == syn counter reject with tcp reset
        tcp flags & psh == psh counter reject with tcp reset
    }}
    chain aimed {{
        ip daddr . tcp dport @{_ENDPOINTS} jump judge
        tcp dport @{_PORTS} fib daddr type local jump judge
    }}
    chain arrive {{
        type filter hook prerouting priority -110; policy accept;
        iifname != "lo" jump aimed
    }}
    chain leave {{
        type filter hook output priority -110; policy accept;
        meta mark {MARK:#x} accept
{user}        jump aimed
    }}
}}
"""


def adding(name: str, endpoints: Iterable[Endpoint]) -> str:
    """Return the nft commands that drain ``endpoints`` as those of runtime ``name``."""
    return "".join(
        f'add element inet {TABLE} {_set_of(endpoint)} {{ {_element(endpoint)} comment "{name}" }}\n'
        for endpoint in sorted(set(endpoints))
    )


def removing(name: str, drained: Mapping[str, Iterable[Endpoint]]) -> str:
    """Return the nft commands that end the drain of ``name``; the last one takes the table along."""
    if set(drained) <= {name}:
        return f"delete table inet {TABLE}\n"
    return "".join(
        f"delete element inet {TABLE} {_set_of(endpoint)} {{ {_element(endpoint)} }}\n" for endpoint in drained[name]
    )


def drained(listing: Mapping[str, Any]) -> dict[str, list[Endpoint]]:
    """Return what is drained, endpoints by runtime, from ``nft -j list table inet vllmd_drain``."""
    found: dict[str, list[Endpoint]] = {}
    for item in listing.get("nftables", []):
        for each in item.get("set", {}).get("elem", []):
            element = each["elem"] if isinstance(each, Mapping) and "elem" in each else {"val": each}
            value = element["val"]
            endpoint = tuple(value["concat"]) if isinstance(value, Mapping) else (_ANY, value)
            found.setdefault(element.get("comment", ""), []).append((str(endpoint[0]), int(endpoint[1])))
    return {name: sorted(endpoints) for name, endpoints in found.items()}


def in_flight(metrics: str) -> int | None:
    """Return how many requests run and wait, from what vLLM's /metrics answers; None when it does not say."""
    values = [
        float(match[2])
        for match in map(_SAMPLE.match, metrics.splitlines())
        if match is not None and match[1] in _IN_FLIGHT
    ]
    return round(sum(values)) if values else None


def _set_of(endpoint: Endpoint) -> str:
    return _PORTS if endpoint[0] == _ANY else _ENDPOINTS


def _element(endpoint: Endpoint) -> str:
    return str(endpoint[1]) if endpoint[0] == _ANY else f"{endpoint[0]} . {endpoint[1]}"
