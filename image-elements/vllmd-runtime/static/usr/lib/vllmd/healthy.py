"""Print one line on the console when the engine answers /health, then go away.

Run as ``python3 -ISB healthy.py``: a bare socket, because an HTTP library would compete with the engine for an emulated
processor for nothing.
"""
# pathlib is not needed to read two small files:
# ruff: noqa: PTH123

import json
import socket
import sys
import time

INTERVAL_SECONDS = 2.0
REQUEST = b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"


def healthy(port):
    """Return whether the engine on local ``port`` answers /health with 200."""
    try:
        # Not create_connection: it asks the C library for the name, whose locks must not be held when engine.py forks.
        with socket.socket() as connection:
            connection.settimeout(30)
            connection.connect(("127.0.0.1", port))
            connection.sendall(REQUEST)
            return connection.recv(64).split()[1:2] == [b"200"]
    except OSError:
        return False


def main():
    """Poll until healthy, say so with the seconds since boot; return the exit status."""
    with open("/run/vllmd/engine.yaml", encoding="utf-8") as stream:
        port = json.load(stream)["port"]
    while not healthy(port):
        time.sleep(INTERVAL_SECONDS)
    with open("/proc/uptime", encoding="ascii") as stream:
        print(f"vllmd: healthy uptime={float(stream.read().split()[0]):.1f}s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
