"""systemd's readiness protocol (sd_notify(3)), without its library."""

import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(environ: Mapping[str, str], *lines: str) -> None:
    """Send lines such as `READY=1` to $NOTIFY_SOCKET; do nothing where there is none."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(lines).encode(), address)


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the unit's WatchdogSec= as systemd tells it to process `pid`; None without one (sd_watchdog_enabled(3)).

    A process whose environment was inherited from a service is not meant: its pid is another one.
    """
    usec = environ.get("WATCHDOG_USEC", "")
    if not environ.get("NOTIFY_SOCKET") or not (usec.isascii() and usec.isdigit()) or int(usec) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1e6
