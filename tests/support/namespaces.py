"""Network namespaces with a bridge, guests and a world outside: a host's isolated network without a virtual machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import TracebackType

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import Guest, Network

#: Serves TCP on every port given, until its standard input ends: says nothing, and closes when the client has closed.
#: (Closing at once would answer a request by a reset, as a packet filter does.)
_SERVE = """
import socket, sys, threading
def serve(server):
    while True:
        connection = server.accept()[0]
        with connection:
            connection.settimeout(1)
            try:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:
                pass
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", int(port))),), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.7, (sys.argv[3], 0) if sys.argv[3:] else None).close()
except OSError as error:
    sys.exit(str(error))
"""
#: An echo request (RFC 792) and its reply.
_ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as probe:
    probe.settimeout(0.7)
    probe.sendto(b"\\x08\\x00\\xf7\\xff" + bytes(4), (sys.argv[1], 0))
    try:
        answer = probe.recv(100)
    except OSError as error:
        sys.exit(str(error))
    sys.exit(0 if answer[20] == 0 else "no echo reply")
"""


def run(*command: str, text: str | None = None) -> str:
    """Run a command and return what it prints; its failure is an AssertionError with its last words."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


class Bed:
    """A host with ``network``, ``guests`` on it, and a machine ``world`` at 192.0.2.2 behind its uplink."""

    world = "192.0.2.2"
    uplink_address = "192.0.2.1"

    def __init__(self, network: Network, guests: list[Guest]) -> None:
        self.network, self.guests = network, guests
        self._stem = f"vllmd-{os.getpid()}"
        self._servers: list[subprocess.Popen[str]] = []
        self._made: list[str] = []

    def __enter__(self) -> Bed:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        for name in self._made:
            run("ip", "netns", "delete", name)

    def inside(self, where: str, *command: str, text: str | None = None) -> str:
        """Run a command in the namespace of ``host``, ``world`` or a guest's name."""
        return run("ip", "netns", "exec", f"{self._stem}-{where}", *command, text=text)

    def reaches(self, where: str, address: str, port: int, source: str | None = None) -> bool:
        """Return whether a TCP connection comes about."""
        return self._tries(where, _CONNECT, address, str(port), *([source] if source else []))

    def pings(self, where: str, address: str) -> bool:
        """Return whether an echo request is answered."""
        return self._tries(where, _ECHO, address)

    def filter(self, ruleset: str) -> None:
        """Load a ruleset on the host."""
        self.inside("host", "nft", "-f", "-", text=ruleset)

    def _tries(self, where: str, program: str, *arguments: str) -> bool:
        command = ["ip", "netns", "exec", f"{self._stem}-{where}", sys.executable, "-ISc", program, *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    def _build(self) -> None:
        for where in ("host", "world", *(guest.name for guest in self.guests)):
            run("ip", "netns", "add", f"{self._stem}-{where}")
            self._made.append(f"{self._stem}-{where}")
            self.inside(where, "ip", "link", "set", "lo", "up")
        bridge, prefix = self.network.bridge, self.network.subnet.prefixlen
        self.inside("host", "ip", "link", "add", bridge, "up", "type", "bridge")
        self.inside("host", "ip", "address", "add", f"{self.network.gateway}/{prefix}", "dev", bridge)
        self._cable(self.network.uplink, "world", f"{self.world}/24")
        self.inside("host", "ip", "address", "add", f"{self.uplink_address}/24", "dev", self.network.uplink)
        self.inside("world", "ip", "route", "add", str(self.network.subnet), "via", self.uplink_address)
        for guest in self.guests:
            self._cable(guest.tap, guest.name, f"{guest.address}/{prefix}", guest.mac)
            self.inside("host", "ip", "link", "set", guest.tap, "master", bridge)
            self.inside(guest.name, "ip", "route", "add", "default", "via", self.network.gateway)
        for interface in (bridge, self.network.uplink):
            self.inside("host", "sysctl", "-qw", f"net.ipv4.conf.{interface}.forwarding=1")
        for where in ("host", "world", *(guest.name for guest in self.guests)):
            self._serve(where, 22, 53, 80, 443, 8000)
        time.sleep(0.1)

    def _cable(self, host_end: str, where: str, address: str, mac: str = "02:00:00:00:00:02") -> None:
        peer = ("peer", "name", "eth0", "address", mac, "netns", f"{self._stem}-{where}")
        self.inside("host", "ip", "link", "add", host_end, "up", "type", "veth", *peer)
        self.inside(where, "ip", "link", "set", "eth0", "up")
        self.inside(where, "ip", "address", "add", address, "dev", "eth0")

    def _serve(self, where: str, *ports: int) -> None:
        command = ["ip", "netns", "exec", f"{self._stem}-{where}", sys.executable, "-ISc", _SERVE, *map(str, ports)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", f"the server in {where} does not start"
