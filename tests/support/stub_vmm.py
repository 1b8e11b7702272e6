"""A process that speaks Cloud Hypervisor's socket protocol, for hosts without its binary or without KVM.

It takes Cloud Hypervisor's arguments, serves its REST API on the given socket, writes every request to a file, refuses
whatever the API description does not allow, and behaves as told: `make_stub` writes an executable of it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from tests.support.openapi import CHECKOUT, CloudHypervisorApi

_STATES = {"vm.create": "Created", "vm.boot": "Running"}


class StubVmm(ThreadingMixIn, UnixStreamServer):
    """The API server. `behaviour`: refuse={resource: [causes]}, deaf=[resources that do nothing], garbage=True.

    serve=PORT: its guest answers 200 there as long as the process runs.
    """

    daemon_threads = True

    def __init__(self, path: str, behaviour: dict[str, Any], record: Path) -> None:
        super().__init__(path, _Handler)
        self.behaviour = behaviour
        self.record = record
        self.state = ""
        self.api = CloudHypervisorApi()
        self.config: Any = None

    def answer(self, method: str, resource: str, body: Any) -> tuple[int, Any]:
        """Return (HTTP code, JSON answer) for a request and act on it."""
        with self.record.open("a", encoding="utf-8") as record:
            record.write(json.dumps({"method": method, "resource": resource, "body": body}) + "\n")
        try:
            self.api.check_request(method, resource, body)
        except AssertionError as fault:
            return 400, ["Error from API", str(fault)]
        if resource in self.behaviour.get("refuse", {}):
            return 500, self.behaviour["refuse"][resource]
        if resource == "vmm.ping":
            return 200, {"version": "v53.0", "build_version": "stub", "pid": os.getpid(), "features": []}
        if resource == "vm.info":
            return (200, {"config": self.config, "state": self.state}) if self.state else (404, None)
        if resource == "vm.power-button" and self.state != "Running":
            return (405 if self.state else 404), None
        if resource in self.behaviour.get("deaf", []):
            return 204, None
        if resource == "vm.create":
            self.config = body
        self.state = _STATES.get(resource, self.state)
        if resource == "vm.boot":
            if port := self.behaviour.get("serve"):
                guest = ThreadingHTTPServer(("127.0.0.1", port), _Guest)
                threading.Thread(target=guest.serve_forever, daemon=True).start()
            print("stub guest: booted", flush=True)
        if resource in ("vm.power-button", "vmm.shutdown"):
            threading.Timer(0.05, self.shutdown).start()
        return 204, None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubVmm

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: standard error is what the tests read."""

    def _serve(self, method: str) -> None:
        if self.server.behaviour.get("garbage"):
            self.wfile.write(b"\x00\x01 not http\r\n\r\n")
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        code, answer = self.server.answer(method, self.path.removeprefix("/api/v1/"), body)
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Guest(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def main(arguments: list[str], behaviour: dict[str, Any], record: Path) -> int:
    """Serve until shut down; the arguments are Cloud Hypervisor's."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    facts = {
        "arguments": arguments,
        "comm": Path("/proc/self/comm").read_text().strip(),
        "environment": dict(os.environ),
    }
    record.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    if behaviour.get("die_at_once"):
        print("stub: cannot open /dev/kvm", file=sys.stderr)
        return 1
    if behaviour.get("no_socket"):
        signal.pause()
    if behaviour.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with StubVmm(options["--api-socket"].removeprefix("path="), behaviour, record) as server:
        server.serve_forever(poll_interval=0.02)
    return 0


def make_stub(directory: Path, **behaviour: Any) -> tuple[Path, Path]:
    """Write an executable named cloud-hypervisor that behaves so; return its path and that of its record."""
    record = directory / "stub-record.jsonl"
    script = directory / "cloud-hypervisor"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    script.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import sys
            from pathlib import Path

            sys.path[:0] = [{str(CHECKOUT)!r}, {site!r}]
            from tests.support.stub_vmm import main

            sys.exit(main(sys.argv[1:], {behaviour!r}, Path({str(record)!r})))
            """),
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script, record


def read_record(record: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the stub saw of itself, and the requests in order."""
    facts, *requests = (json.loads(line) for line in record.read_text(encoding="utf-8").splitlines())
    return facts, requests


def is_listening(path: Path) -> bool:
    """Tell whether something accepts connections on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
