# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What both clients share: settings, and reading what a server answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import openai

from .endpoints import Endpoints

Answer = TypeVar("Answer")

#: A conversation as the OpenAI API has it, or one message of the user.
Messages = str | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Settings:
    """How to send; checked."""

    endpoints: Endpoints
    model: str | None
    api_key: str
    timeout: openai.Timeout
    retries: int

    @classmethod
    def make(
        cls,
        *,
        base_url: str | Iterable[str],
        model: str | None,
        api_key: str | None,
        timeout: float,
        connect_timeout: float,
        retries: int,
        backoff: float,
    ) -> Settings:
        """Return settings. Raises ValueError that names what is wrong."""
        for name, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; expected seconds, more than 0")
        for name, value in (("retries", retries), ("backoff", backoff)):
            if not value >= 0:
                raise ValueError(f"{name} is {value!r}; expected 0 or more")
        return cls(
            endpoints=Endpoints(base_url, backoff),
            model=model,
            # Never OPENAI_API_KEY: that key is for somebody else's service.
            api_key=api_key or os.environ.get("VLLMD_API_KEY") or "none",
            timeout=openai.Timeout(timeout, connect=connect_timeout),
            retries=retries,
        )

    def api_options(self) -> dict[str, Any]:
        """Return what each of the `openai` package's clients is made with; this client retries by itself."""
        # The environment may name an organisation at OpenAI, which is nobody's business here.
        headers = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return {
            "api_key": self.api_key,
            "timeout": self.timeout,
            "max_retries": 0,
            "default_headers": headers,
        }


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError unless it is a number of requests."""
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency!r}; expected 1 or more requests at a time")


def as_messages(messages: Messages) -> list[dict[str, Any]]:
    """Return the conversation as the API takes it."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(each) for each in messages]


#: What a try ends with. Of an answer that is another service's, the `openai` package raises the last two.
FAILURES = (openai.OpenAIError, json.JSONDecodeError, AttributeError)


class NotTheApiError(openai.OpenAIError):
    """What was answered is not what the OpenAI API answers."""


def _reader(read: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """Let ``read`` raise NotTheApiError for an answer of another shape: a proxy's page, another service."""

    @wraps(read)
    def checked(answer: Any) -> Answer:
        try:
            return read(answer)
        except (AttributeError, LookupError, TypeError, ValueError):
            shown = " ".join(str(answer).split())[:80]
            raise NotTheApiError(f"the answer is not the OpenAI API's: {shown}") from None

    return checked


@_reader
def completion_text(answer: Any) -> str:
    """Return the text of a completion."""
    return str(answer.choices[0].text)


@_reader
def chat_text(answer: Any) -> str:
    """Return the text of a chat answer; empty when the model called a tool or said nothing."""
    return str(answer.choices[0].message.content or "")


@_reader
def model_names(answer: Any) -> list[str]:
    """Return the names of the models that are served."""
    return [str(each.id) for each in answer.data]


@_reader
def vectors(answer: Any) -> list[list[float]]:
    """Return the vectors in the order of the texts. Raises NotTheApiError when one is missing."""
    found = {int(each.index): [float(value) for value in each.embedding] for each in answer.data}
    return [found[index] for index in range(len(found))]


def delta(part: Any) -> str:
    """Return the text of one part of a stream; empty for parts that carry none, such as usage."""
    if not part.choices:
        return ""
    choice = part.choices[0]
    return str((choice.delta.content if hasattr(choice, "delta") else choice.text) or "")


def first_model(answer: Any) -> str:
    """Return the model that is served; the first, when there are several. Raises NotTheApiError."""
    names = model_names(answer)
    if not names:
        raise NotTheApiError("it serves no model")
    return names[0]


def broken(error: Exception, stream: Any) -> openai.OpenAIError:
    """Return what the transport raised while a stream was read, which comes unwrapped, as an error of the API."""
    if isinstance(error, openai.OpenAIError):
        return error
    broken_off = openai.APIConnectionError(request=stream.response.request)
    broken_off.__cause__ = error
    return broken_off
