# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A client for runtimes: completions, batches, chat, embeddings, streams; one URL or several.

    from vllmd.client import Client

    with Client(["http://gpu-01:8000", "http://gpu-02:8000"]) as llm:
        print(llm.complete("The capital of France is", max_tokens=8))

Connections are kept and shared. A URL that fails is left alone for a while and the next one asked; one that has too
much to do (HTTP 429, 503) is asked again later. `AsyncClient` is the same with ``await``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import openai

from .async_client import AsyncClient
from .endpoints import Attempts, Endpoint, reason
from .errors import (
    BatchError,
    BrokenStreamError,
    Failure,
    RequestRefusedError,
    UnavailableError,
    VllmdError,
)
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

__all__ = [
    "AsyncClient",
    "BatchError",
    "BrokenStreamError",
    "Client",
    "Failure",
    "RequestRefusedError",
    "UnavailableError",
    "VllmdError",
]

Answer = TypeVar("Answer")


class Client:
    """Sends requests to one service behind one or several base URLs; safe to share between threads.

    ``base_url``: one URL or several, ``/v1`` may be left out. ``model``: for requests that name none; by default the
    one that the server serves. ``api_key``: by default the environment's ``VLLMD_API_KEY``. ``timeout``: seconds that
    one try may take, and no URL is asked again after it; ``retries``: further tries for each URL; ``backoff``: seconds
    that a URL rests after its first failure, doubled with each further one. Raises ValueError for a wrong value.
    """

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
            each.url: openai.OpenAI(base_url=each.url, **self._settings.api_options())
            for each in self._settings.endpoints.all
        }
        self._models: dict[str, str] = {}

    def complete(
        self, prompt: str, model: str | None = None, *, max_tokens: int = 256, temperature: float = 0.0, **options: Any
    ) -> str:
        """Return how the model goes on after ``prompt``. ``options`` go to the API as they are."""
        options |= {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature}
        return self._call(lambda api, name: api.completions.create(model=name, **options), model, completion_text)

    def chat(
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
        return self._call(lambda api, name: api.chat.completions.create(model=name, **options), model, chat_text)

    def embed(self, texts: str | Iterable[str], model: str | None = None, **options: Any) -> list[list[float]]:
        """Return one vector for each text, in their order. ``encoding_format`` is always ``float``."""
        options |= {"input": [texts] if isinstance(texts, str) else list(texts), "encoding_format": "float"}
        return self._call(lambda api, name: api.embeddings.create(model=name, **options), model, vectors)

    def models(self) -> list[str]:
        """Return the names of the models that are served."""
        return self._call(lambda api, _name: api.models.list(), "", model_names)

    def stream_complete(
        self, prompt: str, model: str | None = None, *, max_tokens: int = 256, temperature: float = 0.0, **options: Any
    ) -> Iterator[str]:
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
    ) -> Iterator[str]:
        """Yield the answer to a conversation in parts, as they come."""
        options |= {"messages": as_messages(messages), "max_tokens": max_tokens, "temperature": temperature}
        options |= {"stream": True}
        return self._stream(lambda api, name: api.chat.completions.create(model=name, **options), model)

    def batch_complete(
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
        failures: list[Failure] = []

        def one(index: int) -> str | None:
            try:
                return self.complete(wanted[index], model, **options)
            except VllmdError as error:
                failures.append(Failure(index, wanted[index], error))
                return None

        executor = ThreadPoolExecutor(max_workers=concurrency)
        try:
            results = list(executor.map(one, range(len(wanted))))
        finally:  # an interruption must not wait for prompts that were not sent yet
            executor.shutdown(cancel_futures=True)
        if failures and raise_failures:
            raise BatchError(results, sorted(failures, key=lambda each: each.index))
        return results

    def close(self) -> None:
        """Close the connections."""
        for api in self._apis.values():
            api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, send: Callable[[openai.OpenAI, str], Any], model: str | None, read: Callable[[Any], Answer]
    ) -> Answer:
        """Send until one URL answers. Raises RequestRefusedError, UnavailableError."""
        attempts = Attempts(self._settings.endpoints, self._settings.retries)
        while True:
            endpoint, wait = attempts.take()
            try:
                time.sleep(wait)
                answer = read(send(self._apis[endpoint.url], self._model(endpoint, model)))
            except FAILURES as error:
                attempts.failed(endpoint, error)
            except BaseException:
                attempts.abandoned(endpoint)
                raise
            else:
                attempts.answered(endpoint)
                return answer

    def _stream(self, send: Callable[[openai.OpenAI, str], Any], model: str | None) -> Iterator[str]:
        """Yield parts. Another URL is asked only as long as no part has been handed over."""

        def first(api: openai.OpenAI, name: str) -> tuple[Any, Iterator[Any], list[Any]]:
            stream = send(api, name)
            parts = iter(stream)
            try:
                return stream, parts, [part for part in (next(parts, None),) if part is not None]
            except Exception as error:
                stream.close()
                raise broken(error, stream) from error

        stream, parts, ready = self._call(first, model, tuple)
        with stream:
            for part in ready:
                yield delta(part)
            try:
                for part in parts:
                    yield delta(part)
            except Exception as error:
                raise BrokenStreamError(f"the answer broke off: {reason(broken(error, stream))}") from error

    def _model(self, endpoint: Endpoint, model: str | None) -> str:
        if model is not None or self._settings.model is not None:
            return model if model is not None else str(self._settings.model)
        if endpoint.url not in self._models:
            self._models[endpoint.url] = first_model(self._apis[endpoint.url].models.list())
        return self._models[endpoint.url]
