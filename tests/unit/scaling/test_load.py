"""What replicas tell of their load: real answers of vLLM, others, and none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.request import ProxyHandler, build_opener

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_load import LIMIT_BYTES, ask, load_of, loads
from ansible_collections.vllmd.platform.plugins.module_utils.scaling import Load

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2-135m-instruct"} 3.0
vllm:num_requests_waiting{engine="0",model_name="smollm2-135m-instruct"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="smollm2-135m-instruct"} 0.25
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="a b"} 1.0
process_open_fds 21.0
"""
SECOND = METRICS.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (METRICS, Load(2, 3, 0.25)),
        (METRICS + SECOND, Load(4, 6, 0.5)),
        (METRICS.replace("vllm:kv_cache", "vllm:gpu_cache"), Load(2, 3, 0.25)),
        (METRICS.replace("0.25", "1.5"), Load(2, 3, 1.0)),
        (METRICS.replace("2.0", "NaN"), None),
        (METRICS.replace("3.0", "-1"), None),
        (METRICS.replace("3.0", "+Inf"), None),
        (METRICS.replace("num_requests_waiting", "num_requests_other"), None),
        ("", None),
        ("<html>", None),
    ],
)
def test_what_metrics_say(text: str, load: Load | None) -> None:
    assert load_of(text) == load


class _Server(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        code, body = self.answers.get(self.path, (404, b""))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers what `_Server.answers` says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("health", "metrics", "said"),
    [
        ((200, b""), (200, METRICS.encode()), {"waiting": 2.0, "running": 3.0, "kv_cache": 0.25}),
        ((503, b""), (200, METRICS.encode()), {"error": "it answered 503"}),
        ((200, b""), (200, b"\xff\x00" * 100), {"error": "/metrics does not tell vLLM's load"}),
        ((200, b""), (404, b""), {"error": "it answered 404"}),
        ((200, b""), (200, b"a" * LIMIT_BYTES + METRICS.encode()), {"error": "/metrics does not tell vLLM's load"}),
    ],
)
def test_one_that_is_not_well_tells_nothing(
    url: str, health: tuple[int, bytes], metrics: tuple[int, bytes], said: dict[str, object]
) -> None:
    _Server.answers = {"/health": health, "/metrics": metrics}
    assert ask(build_opener(ProxyHandler({})), url, 5) == said


def test_nobody_there(url: str) -> None:
    assert "refused" in ask(build_opener(ProxyHandler({})), "http://127.0.0.1:1", 1)["error"]


def test_only_whole_answers_count() -> None:
    whole = {"waiting": 1, "running": 2.0, "kv_cache": 0.5}
    assert loads([whole, {"error": "no"}, {"waiting": 1}, None]) == [Load(1, 2, 0.5)]
