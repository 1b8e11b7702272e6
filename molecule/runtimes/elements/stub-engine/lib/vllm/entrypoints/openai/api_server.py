"""An engine that starts in a second: vLLM's API as far as hosts, clients and metrics use it, and doors for tests.

``/health``, ``/metrics``, ``/v1/models``, ``/v1/completions``, ``/v1/chat/completions``. A text is made of the image's
release and the question, so that a test sees who answered; each token takes a twentieth of a second.

Doors, each a POST, answered before it acts:

    /door/exit       the process ends with status 1
    /door/hang       nothing is answered any more, /health neither; connections stay open
    /door/unhealthy  /health answers 503
    /door/fill       fills the file system of the cache, then ends; without room there it does not start again
    /door/load       {"waiting": 3, "running": 1, "kv": 0.5}: what /metrics says from now on
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

ABOUT = "/opt/vllmd/stub.json"
CACHE = os.environ.get("VLLM_CACHE_ROOT") or "/var/lib/vllmd/cache/vllm"
TOKEN_SECONDS = 0.05
ROOM_BYTES = 65536


class Engine:
    """What the server knows and does."""

    def __init__(self, options: dict[str, Any], about: dict[str, str]) -> None:
        self.model: str = options["served-model-name"]
        self.release, self.manners = about["release"], about["manners"]
        self.lock = threading.Lock()
        self.running = 0
        self.said: dict[str, float] = {}
        self.healthy = True
        self.hanging = threading.Event()

    def text(self, question: str, tokens: int) -> str:
        """Answer ``question``, as slowly as ``tokens`` take."""
        with self.lock:
            self.running += 1
        try:
            time.sleep(TOKEN_SECONDS * tokens)
        finally:
            with self.lock:
                self.running -= 1
        return "" if self.manners == "empty" else f"release {self.release} heard: {question}"

    def metrics(self) -> str:
        """Return the three figures in vLLM's names."""
        figures = {
            "vllm:num_requests_running": self.said.get("running", self.running),
            "vllm:num_requests_waiting": self.said.get("waiting", 0),
            "vllm:kv_cache_usage_perc": self.said.get("kv", 0.0),
        }
        labels = f'{{engine="0",model_name="{self.model}"}}'
        return "".join(f"# TYPE {name} gauge\n{name}{labels} {float(value)}\n" for name, value in figures.items())


def end(status: int) -> NoReturn:
    """End at once, as a crash does."""
    sys.stdout.flush()
    os._exit(status)


def fill() -> None:
    """Write to the cache until there is no room, and end."""
    try:
        with open(f"{CACHE}/filled", "ab", buffering=0) as stream:  # noqa: PTH123 -- as the modules beside it
            while True:
                stream.write(bytes(16 * ROOM_BYTES))
    except OSError as error:
        print(f"stub: {error.filename or CACHE}: {error.strerror}", flush=True)
    end(1)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "stub"
    engine: Engine

    def log_message(self, *_arguments: object) -> None:
        """Say nothing for each request."""

    def answer(self, status: int, body: object) -> None:
        """Send ``body``: text as it is, anything else as JSON."""
        plain = isinstance(body, str)
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4" if plain else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        """Health, metrics, models."""
        engine = self.engine
        if engine.hanging.is_set():
            threading.Event().wait()
        if self.path == "/health":
            self.answer(200 if engine.healthy else 503, "")
        elif self.path == "/metrics":
            self.answer(200, engine.metrics())
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": engine.model, "object": "model", "owned_by": "stub"}]})
        else:
            self.answer(404, {"error": {"message": f"no {self.path}", "type": "NotFoundError", "code": 404}})

    def do_POST(self) -> None:
        """Completions, chat, doors."""
        engine = self.engine
        try:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        except ValueError:
            self.answer(400, {"error": {"message": "the body is no JSON", "type": "BadRequestError", "code": 400}})
            return
        if engine.hanging.is_set():
            threading.Event().wait()
        tokens = int(asked.get("max_tokens") or 1)
        made = {"id": "stub", "created": int(time.time()), "model": engine.model}
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        if self.path == "/v1/completions":
            choice = {"index": 0, "text": engine.text(str(asked.get("prompt")), tokens), "finish_reason": "length"}
            self.answer(200, {**made, "object": "text_completion", "choices": [choice], "usage": usage})
        elif self.path == "/v1/chat/completions":
            question = str((asked.get("messages") or [{}])[-1].get("content"))
            message = {"role": "assistant", "content": engine.text(question, tokens)}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            self.answer(200, {**made, "object": "chat.completion", "choices": [choice], "usage": usage})
        elif self.path.startswith("/door/"):
            self.door(self.path.removeprefix("/door/"), asked)
        else:
            self.answer(404, {"error": {"message": f"no {self.path}", "type": "NotFoundError", "code": 404}})

    def door(self, name: str, asked: dict[str, float]) -> None:
        """Do what a test wants."""
        if name not in ("exit", "hang", "unhealthy", "fill", "load"):
            self.answer(404, {"error": {"message": f"no door {name}", "type": "NotFoundError", "code": 404}})
            return
        self.answer(200, {})
        print(f"stub: door {name}", flush=True)
        if name == "exit":
            end(1)
        elif name == "hang":
            self.engine.hanging.set()
        elif name == "unhealthy":
            self.engine.healthy = False
        elif name == "fill":
            fill()
        else:
            self.engine.said = asked


class Server(ThreadingHTTPServer):
    """A thread for each connection; none is waited for at the end."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing of clients that went away."""


def main() -> None:
    """Serve until ended."""
    with open(sys.argv[sys.argv.index("--config") + 1], encoding="utf-8") as stream:  # noqa: PTH123
        options = json.load(stream)
    with open(ABOUT, encoding="utf-8") as stream:  # noqa: PTH123
        about = json.load(stream)
    # As vLLM with its compile cache: without room for it there is no start.
    try:
        os.makedirs(CACHE, exist_ok=True)  # noqa: PTH103
        # A file of each start: what an earlier one wrote would be room again.
        with open(f"{CACHE}/started.{time.time_ns()}", "wb") as stream:  # noqa: PTH123
            stream.write(bytes(ROOM_BYTES))
    except OSError as error:
        print(f"stub: {error.filename or CACHE}: {error.strerror}", flush=True)
        end(1)
    Handler.engine = Engine(options, about)
    print(f"stub: release {about['release']} serves {options['served-model-name']}", flush=True)
    Server((options["host"], options["port"]), Handler).serve_forever()


if __name__ == "__main__":
    main()
