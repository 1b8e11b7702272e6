"""The synchronous client against a server that answers, refuses, stalls and breaks."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.openai_stub import Reply, Stub, answer_to, meet, openai_stub
from vllmd.client import BatchError, BrokenStreamError, Client, RequestRefusedError, UnavailableError


def busy_until(count: int, status: int = 503, **headers: str) -> Any:
    """Refuse the first ``count`` requests for now."""
    left = [count]
    lock = threading.Lock()

    def behave(request: dict[str, Any]) -> Reply:
        with lock:
            if "model" not in request or left[0] == 0:
                return None
            left[0] -= 1
        return status, {"error": {"message": "too much to do"}}, headers

    return behave


def test_the_one_model_is_found_and_defaults_are_the_documented_ones(stub: Stub) -> None:
    with Client(stub.url) as llm:
        assert llm.complete("one") == answer_to("one")
        assert llm.models() == ["tiny"]
    (request,) = stub.requests
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("tiny", 256, 0.0)


def test_chat_takes_a_question_or_a_conversation_and_options(stub: Stub) -> None:
    with Client(stub.url, model="other") as llm:
        assert llm.chat("hello", seed=7) == answer_to("hello")
        talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        assert llm.chat(talk, "third") == answer_to("hi")
    assert [request["model"] for request in stub.requests] == ["other", "third"]
    assert stub.requests[0]["seed"] == 7
    assert stub.requests[1]["messages"] == talk


def test_vectors_are_in_the_order_of_the_texts(stub: Stub) -> None:
    with Client(stub.url) as llm:
        assert llm.embed(["a", "bbb"]) == [[1.0, 0.5], [3.0, 0.5]]
        assert llm.embed("cc") == [[2.0, 0.5]]


def test_streams_come_in_parts(stub: Stub) -> None:
    with Client(stub.url) as llm:
        assert list(llm.stream_chat("x")) == ["answer", " to", " x"]
        assert "".join(llm.stream_complete("x")) == answer_to("x")


def test_a_batch_keeps_its_order_and_its_bound(stub: Stub) -> None:
    stub.behave = meet(4)
    prompts = [str(number) for number in range(24)]
    with Client(stub.url, model="tiny") as llm:
        assert llm.batch_complete(prompts, concurrency=4) == [answer_to(prompt) for prompt in prompts]
    assert stub.most_at_once == 4


def test_what_fails_in_a_batch_is_reported_and_the_rest_is_kept(stub: Stub) -> None:
    refusal = (400, {"error": {"message": "prompt is too long"}}, {})
    stub.behave = lambda request: refusal if request.get("prompt") in ("1", "3") else None
    with Client(stub.url) as llm:
        with pytest.raises(BatchError, match=r"2 of 5 prompts failed, first number 1: .*prompt is too long") as caught:
            llm.batch_complete([str(number) for number in range(5)], concurrency=3)
        assert caught.value.results == ["answer to 0", None, "answer to 2", None, "answer to 4"]
        assert [(each.index, each.prompt) for each in caught.value.failures] == [(1, "1"), (3, "3")]
        assert llm.batch_complete(["0", "1"], raise_failures=False) == ["answer to 0", None]
        assert llm.batch_complete([]) == []
        with pytest.raises(ValueError, match="concurrency is 0"):
            llm.batch_complete(["0"], concurrency=0)


def test_what_is_busy_is_asked_again(stub: Stub) -> None:
    stub.behave = busy_until(2)
    with Client(stub.url, backoff=0.01) as llm:
        assert llm.complete("x") == answer_to("x")
    assert len(stub.requests) == 3


def test_what_stays_busy_is_said_in_one_line(stub: Stub) -> None:
    stub.behave = busy_until(99, 429)
    said = r"no answer after 2 tries: http.*/v1: HTTP 429, too much to do$"
    with Client(stub.url, retries=1, backoff=0.01) as llm, pytest.raises(UnavailableError, match=said):
        llm.complete("x")


def test_a_wrong_request_is_not_sent_twice(stub: Stub) -> None:
    stub.behave = lambda request: (404, {"detail": "no such\nmodel"}, {}) if "model" in request else None
    with Client(stub.url) as llm, pytest.raises(RequestRefusedError, match=r"HTTP 404, no such model$") as caught:
        llm.complete("x")
    assert caught.value.status == 404
    assert len(stub.requests) == 1


def test_another_url_answers_for_one_that_is_gone(stub: Stub, nobody: str) -> None:
    with Client([nobody, stub.url], backoff=60) as llm:  # a rest would take longer than a test may
        assert [llm.complete(prompt) for prompt in "ab"] == [answer_to("a"), answer_to("b")]
        assert "".join(llm.stream_chat("c")) == answer_to("c")


def test_two_urls_share_the_work(stub: Stub) -> None:
    with openai_stub() as second:
        stub.behave = second.behave = meet(2)
        with Client([stub.url, second.url], model="tiny") as llm:
            llm.batch_complete(["a", "b", "c", "d"], concurrency=2)
        assert (len(stub.requests), len(second.requests)) == (2, 2)


def test_nobody_anywhere_is_one_line_with_the_reason(nobody: str) -> None:
    with Client(nobody, retries=0) as llm, pytest.raises(UnavailableError, match=r"one try: .*refused") as caught:
        llm.chat("x")
    assert len(caught.value.attempts) == 1


def test_a_time_out_is_not_repeated_on_the_same_url(stub: Stub) -> None:
    go_on = threading.Event()
    stub.behave = lambda request: (go_on.wait(20), None)[1] if "model" in request else None
    said = r"one try: .*did not answer in time"
    with Client(stub.url, model="tiny", timeout=0.2) as llm, pytest.raises(UnavailableError, match=said):
        llm.complete("x")
    go_on.set()
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>welcome</html>", {"content-type": "text/html"}),
        (200, b"{", {}),
        (200, {"choices": []}, {}),
        (200, [], {}),
    ],
)
def test_another_service_on_the_port_is_said(stub: Stub, reply: Reply) -> None:
    stub.behave = lambda _request: reply
    with Client(stub.url, model="tiny", retries=0) as llm, pytest.raises(UnavailableError) as caught:
        llm.complete("x")
    assert "\n" not in str(caught.value)
    with Client(stub.url, retries=0) as llm, pytest.raises(UnavailableError):
        llm.complete("x")


def test_an_answer_that_breaks_off_is_no_whole_one(stub: Stub) -> None:
    stub.break_after = 2
    got = []
    with Client(stub.url) as llm, pytest.raises(BrokenStreamError, match="the answer broke off: "):
        for part in llm.stream_complete("x"):
            got.append(part)
    assert got == ["answer", " to"]


def test_an_error_within_a_stream_is_raised(stub: Stub) -> None:
    events = b'data: {"choices": [{"index": 0, "text": "a"}]}\n\ndata: {"error": {"message": "out of memory"}}\n\n'
    stub.behave = lambda request: (200, events, {"content-type": "text/event-stream"}) if "model" in request else None
    got = []
    with Client(stub.url) as llm, pytest.raises(BrokenStreamError, match="broke off: out of memory"):
        for part in llm.stream_complete("x"):
            got.append(part)
    assert got == ["a"]


def test_connections_are_kept(stub: Stub) -> None:
    with Client(stub.url) as llm:
        for _round in range(5):
            llm.complete("x")
    assert stub.connections == 1


def test_keys_for_others_stay_here(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "not-for-you")
    with Client(stub.url) as llm:
        llm.complete("x")
    monkeypatch.setenv("VLLMD_API_KEY", "mine")
    with Client(stub.url) as llm:
        llm.complete("x")
    assert [headers["authorization"] for headers in stub.headers] == ["Bearer none", "Bearer mine"]
    assert "not-for-you" not in str(stub.headers)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"retries": -1}, {"base_url": []}, {"base_url": "here"}])
def test_wrong_settings_are_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|no base URL"):
        Client(**wrong)
