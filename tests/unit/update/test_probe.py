"""One real question: what counts as an answer, and idleness as vLLM's metrics tell it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import host_http
from ansible_collections.vllmd.platform.plugins.modules import runtime_drain
from tests.support import modules

Reply = tuple[int, str]


@contextmanager
def serving(reply: Callable[[str, str], Reply]) -> Iterator[str]:
    """Serve what ``reply`` says to path and body; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, text = reply(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: object) -> str:
    return json.dumps({"choices": [{"text": text}]})


def test_a_completion_is_asked_for_by_model_and_at_temperature_zero(tmp_path: Path) -> None:
    asked = []

    def reply(path: str, body: str) -> Reply:
        asked.append((path, json.loads(body)))
        return 200, completion(" Paris.")

    with serving(reply) as url:
        result = modules.run("runtime_probe", {"url": url, "model": "m", "expect": "Paris"}, tmp_path)
    assert result["text"] == " Paris." and not result["changed"]
    assert asked == [
        ("/v1/completions", {"model": "m", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0})
    ]


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (200, completion("  \n"), "its completion is '', in which '\\\\S' is not found"),
        (200, completion(None), "its completion is 'None'"),
        (200, "<html>", "it answered no completion: '<html>'"),
        (200, "{}", "it answered no completion: '{}'"),
        (500, "engine is dead", "it answered 500: engine is dead"),
    ],
)
def test_what_is_no_answer_fails_in_one_line(status: int, text: str, said: str, tmp_path: Path) -> None:
    with serving(lambda _path, _body: (status, text)) as url:
        result = modules.run("runtime_probe", {"url": url, "model": "m"}, tmp_path)
    if text == completion(None):
        assert not result.get("failed") or said in result["msg"]
    else:
        assert said in result["msg"]


def test_nobody_there_fails_in_one_line(tmp_path: Path) -> None:
    with serving(lambda _path, _body: (200, "")) as url:
        pass
    assert "no answer: " in modules.run("runtime_probe", {"url": url, "model": "m"}, tmp_path)["msg"]


def test_an_embedding_is_one(tmp_path: Path) -> None:
    answers = iter([json.dumps({"data": [{"embedding": [0.5, 1]}]}), json.dumps({"data": [{"embedding": []}]})])
    with serving(lambda _path, _body: (200, next(answers))) as url:
        given = {"url": url, "model": "m", "kind": "embedding"}
        assert modules.run("runtime_probe", given, tmp_path)["text"] == "2"
        assert "no embedding" in modules.run("runtime_probe", given, tmp_path)["msg"]


def test_idle_is_twice_in_a_row_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_drain, "_PAUSE_SECONDS", 0.0)
    seen = []
    counts = iter([2, 0, 1, 0, 0, 9])

    def reply(_path: str, _body: str) -> Reply:
        seen.append(next(counts))
        return 200, f"vllm:num_requests_running {seen[-1]}\n"

    with serving(reply) as url:
        assert runtime_drain.wait_until_idle(f"{url}/metrics", 60)[0] == 0
    assert seen == [2, 0, 1, 0, 0]


def test_what_still_runs_at_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_drain, "_PAUSE_SECONDS", 0.0)
    with serving(lambda _path, _body: (200, "vllm:num_requests_running 3\n")) as url:
        assert runtime_drain.wait_until_idle(f"{url}/metrics", 0)[0] == 3
    with serving(lambda _path, _body: (404, "")) as url:
        assert runtime_drain.wait_until_idle(f"{url}/metrics", 0)[0] is None


@pytest.mark.parametrize("status", [404, 500, 200])
def test_who_is_gone_or_cannot_say_is_not_waited_for(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_drain, "_PAUSE_SECONDS", 0.0)
    with serving(lambda _path, _body: (status, "")) as url:
        assert runtime_drain.wait_until_idle(f"{url}/metrics", 3600)[0] is None
    assert runtime_drain.wait_until_idle(f"{url}/metrics", 3600)[0] is None


def test_who_is_slow_to_say_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_drain, "_PAUSE_SECONDS", 0.0)
    replies: list[float | host_http.HttpError] = [host_http.HttpError("no answer", True)] * 5 + [0.0, 0.0]

    def fetch(_url: str, _timeout: float) -> str:
        reply = replies.pop(0)
        if isinstance(reply, host_http.HttpError):
            raise reply
        return f"vllm:num_requests_running {reply}\n"

    monkeypatch.setattr(host_http, "fetch", fetch)
    assert runtime_drain.wait_until_idle("http://h/metrics", 3600)[0] == 0
    assert replies == []


def test_a_time_out_is_told_apart_from_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/metrics"
        with pytest.raises(host_http.HttpError, match="no answer") as slow:
            host_http.fetch(url, 0.2)
        assert slow.value.timed_out
    with pytest.raises(host_http.HttpError) as nobody:
        host_http.fetch(url, 5)
    assert not nobody.value.timed_out
