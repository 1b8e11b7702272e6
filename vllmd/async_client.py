# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The client of vllmd.client, with ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import openai

from .endpoints import Attempts, Endpoint, reason
from .errors import BatchError, BrokenStreamError, Failure, VllmdError
from .requests import (
    FAILURES,
    Messages,
    Settings,
    as_messages,
    broken,
    chat_text,
    check_concurrency,
    completion_text,
    delta,
    first_model,
    model_names,
    vectors,
)

Answer = TypeVar("Answer")


class AsyncClient:
    """Sends requests to one service behind one or several base URLs; for one event loop. Arguments as for Client."""

    def __init__(
        self,
        base_url: str | Iterable[str] = "http://127.0.0.1:8000/v1",
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        retries: int = 3,
        backoff: float = 0.5,
    ) -> None:
        self._settings = Settings.make(
            base_url=base_url,
            model=model,
            api_key=api_key,
            timeout=timeout,
            connect_timeout=connect_timeout,
            retries=retries,
            backoff=backoff,
        )
        self._apis = {
            each.url: openai.AsyncOpenAI(base_url=each.url, **self._settings.api_options())
            for each in self._settings.endpoints.all
        }
        self._models: dict[str, str] = {}

    async def complete(
        self, prompt: str, model: str | None = None, *, max_tokens: int = 256, temperature: float = 0.0, **options: Any
    ) -> str:
        """Return how the model goes on after ``prompt``. ``options`` go to the API as they are."""
        options |= {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature}
        return await self._call(lambda api, name: api.completions.create(model=name, **options), model, completion_text)

    async def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        **options: Any,
    ) -> str:
        """Return the answer to a conversation; a string stands for one message of the user."""
        options |= {"messages": as_messages(messages), "max_tokens": max_tokens, "temperature": temperature}
        return await self._call(lambda api, name: api.chat.completions.create(model=name, **options), model, chat_text)

    async def embed(self, texts: str | Iterable[str], model: str | None = None, **options: Any) -> list[list[float]]:
        """Return one vector for each text, in their order. ``encoding_format`` is always ``float``."""
        options |= {"input": [texts] if isinstance(texts, str) else list(texts), "encoding_format": "float"}
        return await self._call(lambda api, name: api.embeddings.create(model=name, **options), model, vectors)

    async def models(self) -> list[str]:
        """Return the names of the models that are served."""

        async def send(api: openai.AsyncOpenAI, _name: str) -> Any:
            return await api.models.list()

        return await self._call(send, "", model_names)

    def stream_complete(
        self, prompt: str, model: str | None = None, *, max_tokens: int = 256, temperature: float = 0.0, **options: Any
    ) -> AsyncIterator[str]:
        """Yield the continuation of ``prompt`` in parts, as they come."""
        options |= {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, "stream": True}
        return self._stream(lambda api, name: api.completions.create(model=name, **options), model)

    def stream_chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        **options: Any,
    ) -> AsyncIterator[str]:
        """Yield the answer to a conversation in parts, as they come."""
        options |= {"messages": as_messages(messages), "max_tokens": max_tokens, "temperature": temperature}
        options |= {"stream": True}
        return self._stream(lambda api, name: api.chat.completions.create(model=name, **options), model)

    async def batch_complete(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        *,
        concurrency: int = 16,
        raise_failures: bool = True,
        **options: Any,
    ) -> list[str | None]:
        """Return one answer for each prompt, in their order, with at most ``concurrency`` requests at a time.

        One that fails does not end the others. Then BatchError is raised at the end, with all answers and failures; or,
        with ``raise_failures=False``, None stands for its answer.
        """
        wanted = list(prompts)
        check_concurrency(concurrency)
        results: list[str | None] = [None] * len(wanted)
        failures: list[Failure] = []
        waiting = iter(range(len(wanted)))

        async def work() -> None:
            for index in waiting:
                try:
                    results[index] = await self.complete(wanted[index], model, **options)
                except VllmdError as error:
                    failures.append(Failure(index, wanted[index], error))

        # The first unexpected error, or a cancellation, ends all of them.
        async with asyncio.TaskGroup() as group:
            for _worker in range(min(concurrency, len(wanted))):
                group.create_task(work())
        if failures and raise_failures:
            raise BatchError(results, sorted(failures, key=lambda each: each.index))
        return results

    async def close(self) -> None:
        """Close the connections."""
        for api in self._apis.values():
            await api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self,
        send: Callable[[openai.AsyncOpenAI, str], Awaitable[Any]],
        model: str | None,
        read: Callable[[Any], Answer],
    ) -> Answer:
        """Send until one URL answers. Raises RequestRefusedError, UnavailableError."""
        attempts = Attempts(self._settings.endpoints, self._settings.retries)
        while True:
            endpoint, wait = attempts.take()
            try:
                await asyncio.sleep(wait)
                answer = read(await send(self._apis[endpoint.url], await self._model(endpoint, model)))
            except FAILURES as error:
                attempts.failed(endpoint, error)
            except BaseException:
                attempts.abandoned(endpoint)
                raise
            else:
                attempts.answered(endpoint)
                return answer

    async def _stream(
        self, send: Callable[[openai.AsyncOpenAI, str], Awaitable[Any]], model: str | None
    ) -> AsyncIterator[str]:
        """Yield parts. Another URL is asked only as long as no part has been handed over."""

        async def first(api: openai.AsyncOpenAI, name: str) -> tuple[Any, AsyncIterator[Any], list[Any]]:
            stream = await send(api, name)
            parts = aiter(stream)
            try:
                return stream, parts, [part for part in (await anext(parts, None),) if part is not None]
            except Exception as error:
                await stream.close()
                raise broken(error, stream) from error

        stream, parts, ready = await self._call(first, model, tuple)
        async with stream:
            for part in ready:
                yield delta(part)
            try:
                async for part in parts:
                    yield delta(part)
            except Exception as error:
                raise BrokenStreamError(f"the answer broke off: {reason(broken(error, stream))}") from error

    async def _model(self, endpoint: Endpoint, model: str | None) -> str:
        if model is not None or self._settings.model is not None:
            return model if model is not None else str(self._settings.model)
        if endpoint.url not in self._models:
            self._models[endpoint.url] = first_model(await self._apis[endpoint.url].models.list())
        return self._models[endpoint.url]
