"""The asynchronous client does what the synchronous one does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from tests.support.openai_stub import Stub, answer_to, meet
from vllmd.client import AsyncClient, BatchError, BrokenStreamError, RequestRefusedError, UnavailableError

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


def test_all_calls(stub: Stub) -> None:
    async def work() -> None:
        async with AsyncClient(stub.url) as llm:
            assert await llm.complete("one") == answer_to("one")
            assert await llm.chat("two") == answer_to("two")
            assert await llm.embed(["a", "bbb"]) == [[1.0, 0.5], [3.0, 0.5]]
            assert await llm.models() == ["tiny"]
            assert [part async for part in llm.stream_chat("x")] == ["answer", " to", " x"]
            assert [part async for part in llm.stream_complete("x")] == ["answer", " to", " x"]

    run(work())


def test_a_batch_keeps_its_order_and_its_bound(stub: Stub) -> None:
    stub.behave = meet(4)
    prompts = [str(number) for number in range(24)]

    async def work() -> list[str | None]:
        async with AsyncClient(stub.url, model="tiny") as llm:
            return await llm.batch_complete(prompts, concurrency=4)

    assert run(work()) == [answer_to(prompt) for prompt in prompts]
    assert stub.most_at_once == 4


def test_failures_and_failover(stub: Stub, nobody: str) -> None:
    refusal = (400, {"error": {"message": "too long"}}, {})
    stub.behave = lambda request: refusal if request.get("prompt") == "1" else None

    async def work() -> None:
        async with AsyncClient([nobody, stub.url], backoff=60) as llm:
            with pytest.raises(BatchError) as caught:
                await llm.batch_complete(["0", "1", "2"])
            assert caught.value.results == ["answer to 0", None, "answer to 2"]
            with pytest.raises(RequestRefusedError):
                await llm.complete("1")
        async with AsyncClient(nobody, retries=1, backoff=0.01) as llm:
            with pytest.raises(UnavailableError, match="after 2 tries"):
                await llm.complete("1")

    run(work())


def test_an_error_within_a_stream_is_raised(stub: Stub) -> None:
    events = b'data: {"choices": [{"index": 0, "text": "a"}]}\n\ndata: {"error": {"message": "out of memory"}}\n\n'
    stub.behave = lambda request: (200, events, {"content-type": "text/event-stream"}) if "model" in request else None

    async def work() -> None:
        async with AsyncClient(stub.url) as llm:
            with pytest.raises(BrokenStreamError, match="out of memory"):
                [part async for part in llm.stream_complete("x")]

    run(work())


def test_a_cancelled_batch_sends_nothing_more(stub: Stub) -> None:
    go_on, started = threading.Event(), threading.Event()
    stub.behave = lambda request: (started.set(), go_on.wait(20), None)[2] if "model" in request else None

    async def work() -> None:
        async with AsyncClient(stub.url, model="tiny") as llm:
            task = asyncio.create_task(llm.batch_complete([str(number) for number in range(50)], concurrency=2))
            while not started.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())
    go_on.set()
    assert len(stub.requests) <= 2
