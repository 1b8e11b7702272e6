"""Run in a guest, or on a host, as root: try to reach others, and say what came of it as JSON.

    python3 - '[["tcp", "10.213.0.5", 8000], ["frame", "eth0", "02:...", "88b5"], ["listen", "eth0", 8]]'

``ping ADDRESS``, ``tcp ADDRESS PORT``, ``arp INTERFACE ADDRESS`` (who has it?), ``frame INTERFACE MAC TYPE`` (one of
that type), ``listen INTERFACE SECONDS`` (the types of frames that arrive, with their senders), ``neighbour INTERFACE
ADDRESS MAC``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 3.0


def packets(interface: str, kind: int) -> socket.socket:
    """Return a socket for whole frames."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    found.bind((interface, 0))
    found.settimeout(0.2)
    return found


def tcp(address: str, port: int) -> str:
    """Connect."""
    try:
        socket.create_connection((address, port), SECONDS).close()
    except OSError as error:
        return str(error)
    return "connected"


def own_mac(interface: str) -> bytes:
    """Return the interface's own address."""
    return bytes.fromhex(
        Path(f"/sys/class/net/{interface}/address").read_text(encoding="ascii").strip().replace(":", "")
    )


def arp(interface: str, address: str) -> str:
    """Ask who has an address (RFC 826); the MAC that answers, or nothing."""
    said = subprocess.run(["ip", "-o", "-4", "address", "show", interface], capture_output=True, text=True, check=True)
    mine = said.stdout.split()[3].partition("/")[0]
    mac, wanted = own_mac(interface), socket.inet_aton(address)
    question = b"\x00\x01\x08\x00\x06\x04\x00\x01" + mac + socket.inet_aton(mine) + bytes(6) + wanted
    with packets(interface, 0x0806) as wire:
        wire.send(b"\xff" * 6 + mac + b"\x08\x06" + question)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                frame = wire.recv(2048)
            except TimeoutError:
                continue
            if frame[20:22] == b"\x00\x02" and frame[28:32] == wanted:
                return frame[22:28].hex(":")
    return ""


def frame(interface: str, mac: str, kind: str) -> str:
    """Send a frame as it is."""
    with packets(interface, int(kind, 16)) as wire:
        wire.send(bytes.fromhex(mac.replace(":", "")) + own_mac(interface) + bytes.fromhex(kind) + bytes(46))
    return "sent"


def listen(interface: str, seconds: float) -> list[str]:
    """Return what arrives: ``TYPE SENDER``, each once."""
    print("listening", file=sys.stderr, flush=True)
    found = set()
    mine = own_mac(interface)
    with packets(interface, 0x0003) as wire:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                got = wire.recv(2048)
            except TimeoutError:
                continue
            if got[6:12] != mine:
                found.add(f"{got[12:14].hex()} {got[6:12].hex(':')}")
    return sorted(found)


def neighbour(interface: str, address: str, mac: str) -> str:
    """Know an address's place on the wire without asking."""
    command = ["ip", "neighbour", "replace", address, "lladdr", mac, "dev", interface, "nud", "permanent"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def ping(address: str) -> str:
    """Ask for an echo (RFC 792)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
        wire.settimeout(SECONDS)
        wire.sendto(b"\x08\x00\xf7\xff" + bytes(4), (address, 0))
        try:
            return "answered" if wire.recv(100)[20] == 0 else "refused"
        except OSError as error:
            return str(error)


KINDS: dict[str, Any] = {"ping": ping, "tcp": tcp, "arp": arp, "frame": frame, "listen": listen, "neighbour": neighbour}

if __name__ == "__main__":
    print(json.dumps([KINDS[kind](*given) for kind, *given in json.loads(sys.argv[1])]))
