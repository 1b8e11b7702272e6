"""A process that takes QEMU's command line and speaks QMP, with an OpenAI engine where the guest's would be forwarded.

What the engine does stands in the first bytes of the system disk, as JSON: ``answer`` (the completion's text, default
"Paris"), ``health`` (the status of /health, default 200), ``seconds`` (how long a completion takes, default 0.02),
``waiting`` and ``kv_cache`` (what /metrics says of them, default 0). The completion's ``system_fingerprint`` is the
disk's ``name``.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Engine(ThreadingHTTPServer):
    """The engine behind one forwarded port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], behaviour: dict[str, Any]) -> None:
        super().__init__(address, _Handler)
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.running = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        if self.path == "/health":
            self._say(self.server.behaviour.get("health", 200), b"")
        elif self.path == "/metrics":
            text = f'vllm:num_requests_running{{model_name="m"}} {self.server.running}.0\n'
            text += f'vllm:num_requests_waiting{{model_name="m"}} {self.server.behaviour.get("waiting", 0.0)}\n'
            text += f'vllm:kv_cache_usage_perc{{model_name="m"}} {self.server.behaviour.get("kv_cache", 0.0)}\n'
            self._say(200, text.encode())
        else:
            self._say(200, json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.running += 1
        time.sleep(self.server.behaviour.get("seconds", 0.02))
        answer = {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": "m",
            "system_fingerprint": self.server.behaviour.get("name", ""),
            "choices": [{"index": 0, "text": self.server.behaviour.get("answer", "Paris"), "finish_reason": "stop"}],
        }
        with self.server.lock:
            self.server.running -= 1
        self._say(200, json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Qmp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say({"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}}, "capabilities": []}})
        for line in self.rfile:
            command = json.loads(line)["execute"]
            self._say({"return": {"status": "running", "running": True} if command == "query-status" else {}})
            if command in ("system_powerdown", "quit"):
                os._exit(0)

    def _say(self, message: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")


def _value(arguments: list[str], start: str) -> str:
    return next(each for each in arguments if each.startswith(start))


def main(arguments: list[str]) -> int:
    """Run until powered off."""
    if "-accel" not in arguments:  # asked for its version or machines
        print("QEMU emulator version 10.0.2 (Debian 1:10.0.2)")
        return 0
    disk = json.loads(_value(arguments, '{"driver": "raw", "node-name": "system"'))
    head = Path(disk["file"]["filename"]).read_bytes()[:512].rstrip(b"\0")
    netdev = _value(arguments, "user,id=net0")
    for forward in (each for each in netdev.split(",") if each.startswith("hostfwd=tcp:")):
        host, port = forward.removeprefix("hostfwd=tcp:").partition("-:")[0].rsplit(":", 1)
        server = Engine((host, int(port)), json.loads(head or b"{}"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
    chardev = _value(arguments, "socket,id=qmp,path=")
    path = chardev.split(",")[2].removeprefix("path=")
    with socketserver.ThreadingUnixStreamServer(path, _Qmp) as qmp:
        qmp.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
