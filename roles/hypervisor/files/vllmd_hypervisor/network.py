"""VLLMD_HYPERVISOR_NETWORK: none, user-mode networking with forwarded ports, or a tap, optionally on a bridge."""

from dataclasses import dataclass
from hashlib import sha256

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.quantity import parse_pairs, parse_whole_number

INTERFACE_NAME_LIMIT = 15  # the kernel's IFNAMSIZ less its terminator
PORT_LIMIT = 65535
MAC_BYTES = 6
_ALLOWED_KEYS = {"none": (), "user": ("forward", "mac"), "tap": ("tap", "bridge", "mac")}


@dataclass(frozen=True)
class Forward:
    """A TCP port of the host that leads to one of the guest (user mode)."""

    host_address: str
    host_port: int
    guest_port: int


@dataclass(frozen=True)
class Network:
    """The guest's one network card, or none."""

    mode: str = "none"
    mac: str = ""
    forwards: tuple[Forward, ...] = ()
    tap: str = ""
    bridge: str = ""


def parse_network(text: str, name: str) -> Network:
    """Read `mode=user,forward=127.0.0.1:8000:8000` or `mode=tap,tap=vmtap0,bridge=br0`; `name` seeds the MAC."""
    if text == "none":
        return Network()
    pairs = parse_pairs(text)
    settings: dict[str, str] = {}
    forwards: list[Forward] = []
    for key, value in pairs:
        if key == "forward":
            forwards.append(_parse_forward(value))
        elif key not in ("mode", "tap", "bridge", "mac"):
            raise ValueProblem(f"unknown network key {key!r}; known are mode, forward, tap, bridge, mac")
        elif key in settings:
            raise ValueProblem(f"{key} is given twice")
        else:
            settings[key] = value
    mode = settings.pop("mode", "")
    if mode not in _ALLOWED_KEYS:
        raise ValueProblem(f"mode is {mode!r}, must be none, user or tap" if mode else "has no mode=user or mode=tap")
    given = [*settings, *(["forward"] if forwards else [])]
    misplaced = [key for key in given if key not in _ALLOWED_KEYS[mode]]
    if misplaced:
        raise ValueProblem(f"{misplaced[0]} does not go with mode={mode}")
    if mode == "none":
        return Network()
    _check_forwards(forwards)
    if mode == "tap" and "tap" not in settings:
        raise ValueProblem("mode=tap needs tap=NAME")
    for key in ("tap", "bridge"):
        if key in settings:
            _check_interface_name(key, settings[key])
    mac = _parse_mac(settings["mac"]) if "mac" in settings else derive_mac(name)
    return Network(mode, mac, tuple(forwards), settings.get("tap", ""), settings.get("bridge", ""))


def derive_mac(name: str) -> str:
    """Return a stable, locally administered unicast MAC for a runtime's name (40 bits of its SHA-256)."""
    digest = sha256(name.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[: MAC_BYTES - 1]))


def _parse_mac(text: str) -> str:
    parts = text.lower().split(":")
    digits = "0123456789abcdef"
    if len(parts) != MAC_BYTES or any(len(part) != 2 or part.strip(digits) for part in parts):
        raise ValueProblem(f"mac {text!r} is not six hexadecimal bytes like 52:54:00:12:34:56")
    if int(parts[0], 16) & 1:
        raise ValueProblem(f"mac {text!r} is a multicast address; the first byte must be even")
    return ":".join(parts)


def _parse_forward(text: str) -> Forward:
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueProblem(f"forward {text!r} is not HOST_ADDRESS:HOST_PORT:GUEST_PORT, like 127.0.0.1:8000:8000")
    address = parts[0]
    if not is_ipv4(address):
        raise ValueProblem(f"forward {text!r}: {address!r} is not an IPv4 address")
    try:
        ports = [parse_whole_number(part, 1, PORT_LIMIT) for part in parts[1:]]
    except ValueProblem as problem:
        raise ValueProblem(f"forward {text!r}: a port {problem}") from None
    return Forward(address, ports[0], ports[1])


def is_ipv4(text: str) -> bool:
    """Tell whether the text is an IPv4 address in its one plain spelling."""
    octets = text.split(".")
    return len(octets) == 4 and all(map(_is_octet, octets))


def _is_octet(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255 and str(int(text)) == text


def _check_forwards(forwards: list[Forward]) -> None:
    taken: set[tuple[str, int]] = set()
    for forward in forwards:
        place = (forward.host_address, forward.host_port)
        if place in taken:
            raise ValueProblem(f"{place[0]}:{place[1]} is forwarded twice")
        taken.add(place)


def _check_interface_name(key: str, name: str) -> None:
    if len(name.encode()) > INTERFACE_NAME_LIMIT:
        raise ValueProblem(f"{key} {name!r} is longer than {INTERFACE_NAME_LIMIT} bytes, the kernel's limit")
    if not all(char.isascii() and (char.isalnum() or char in "._-") for char in name) or name in (".", ".."):
        raise ValueProblem(f"{key} {name!r} is not an interface name (letters, digits, dot, dash, underscore)")
