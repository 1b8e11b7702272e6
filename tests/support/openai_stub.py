"""An OpenAI server in this process: real HTTP on a real socket, answers that a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What a test's behaviour returns: None to answer as a model does, or a status, a body and headers.
Reply = tuple[int, Any, dict[str, str]] | None


@dataclass
class Stub:
    """The server as a test sees it."""

    url: str
    model: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    #: Called with each request before it is answered.
    behave: Callable[[dict[str, Any]], Reply] = lambda _request: None
    #: Parts of a stream after which the connection breaks.
    break_after: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer_to(prompt: str) -> str:
    """What the stub's model says."""
    return f"answer to {prompt}"


def meet(count: int) -> Callable[[dict[str, Any]], Reply]:
    """Answer no request before ``count`` of them are there."""
    together = threading.Barrier(count, timeout=20)

    def behave(request: dict[str, Any]) -> Reply:
        if "model" in request:
            together.wait()
        return None

    return behave


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def setup(self) -> None:
        with self.stub.lock:
            self.stub.connections += 1
        super().setup()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        reply = self.stub.behave({"path": self.path})
        self._send(*(reply or (200, {"object": "list", "data": [{"id": self.stub.model, "object": "model"}]}, {})))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        request["path"] = self.path
        with self.stub.lock:
            self.stub.requests.append(request)
            self.stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.stub.at_once += 1
            self.stub.most_at_once = max(self.stub.most_at_once, self.stub.at_once)
        try:
            reply = self.stub.behave(request)
            if reply is not None:
                self._send(*reply)
            elif request.get("stream"):
                self._stream(request)
            else:
                self._send(200, self._body(request), {})
        finally:
            with self.stub.lock:
                self.stub.at_once -= 1

    def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        common = {"id": "1", "created": 1, "model": request["model"]}
        if request["path"].endswith("/embeddings"):
            # Out of order on purpose: the index counts.
            vectors = [
                {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5]}
                for index, text in enumerate(request["input"])
            ]
            return {"object": "list", "data": vectors[::-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}, **common}
        if request["path"].endswith("/chat/completions"):
            text = answer_to(request["messages"][-1]["content"])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            return {"object": "chat.completion", "choices": [choice], **common}
        choice = {"index": 0, "finish_reason": "stop", "text": answer_to(request["prompt"]), "logprobs": None}
        return {"object": "text_completion", "choices": [choice], **common}

    def _stream(self, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")  # its end says that the answer is whole
        self.end_headers()
        chat = request["path"].endswith("/chat/completions")
        text = answer_to(request["messages"][-1]["content"] if chat else request["prompt"])
        for number, word in enumerate(text.split(" ")):
            if number == self.stub.break_after:
                self.close_connection = True
                return
            part = ("" if number == 0 else " ") + word
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": {"content": part}} if chat else {"text": part}
            kind = "chat.completion.chunk" if chat else "text_completion"
            event = {"id": "1", "created": 1, "model": request["model"], "object": kind, "choices": [choice]}
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def openai_stub(model: str = "tiny") -> Iterator[Stub]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    stub = Stub(f"http://127.0.0.1:{server.server_port}", model)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"stub": stub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
