# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which URL takes the next try of a request, and when: fail over at once, back off from a URL that failed.

Nothing in here sends or sleeps, so the synchronous and the asynchronous client share it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from .errors import RequestRefusedError, UnavailableError

#: What another try may mend: time-outs of a proxy, conflicts, too many requests, and a server's own trouble.
RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_REST_SECONDS = 30.0
_LONGEST_REASON = 300  # characters of a server's message that are passed on


def normal_url(url: str) -> str:
    """Return ``url`` as a base URL: ``http://host:8000`` stands for ``http://host:8000/v1``. Raises ValueError."""
    try:
        parts = urlsplit(url.strip() if isinstance(url, str) else "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{url!r} is no base URL; expected http(s)://HOST[:PORT][/v1]")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or fragment; a base URL ends with its path, such as /v1")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


@dataclass
class Endpoint:
    """One base URL and how it has been doing."""

    url: str
    failures: int = 0  # in a row
    rests_until: float = 0.0  # on the clock of `Endpoints`
    in_flight: int = 0


class Endpoints:
    """The URLs of one service; safe to share between threads."""

    def __init__(
        self,
        urls: str | Iterable[str],
        backoff: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        found = [normal_url(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not found:
            raise ValueError("no base URL given; name at least one, such as http://127.0.0.1:8000/v1")
        self.all = [Endpoint(url) for url in dict.fromkeys(found)]
        self._backoff = backoff
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()

    def take(self, without: Iterable[str] = ()) -> tuple[Endpoint, float]:
        """Return the endpoint for the next try, and the seconds to wait before: the idlest that does not rest."""
        with self._lock:
            now = self._clock()
            usable = [each for each in self.all if each.url not in set(without)]
            best = min(usable, key=lambda each: (max(each.rests_until, now), each.in_flight))
            best.in_flight += 1
            return best, max(0.0, best.rests_until - now)

    def give_back(self, endpoint: Endpoint) -> None:
        """End a try whose outcome says nothing about the endpoint."""
        with self._lock:
            endpoint.in_flight -= 1

    def succeeded(self, endpoint: Endpoint) -> None:
        """End a try that was answered."""
        with self._lock:
            endpoint.in_flight -= 1
            endpoint.failures = 0
            endpoint.rests_until = 0.0

    def failed(self, endpoint: Endpoint, retry_after: float | None = None) -> None:
        """End a try that failed: the endpoint rests, twice as long after each failure, or as long as it asked for."""
        with self._lock:
            endpoint.in_flight -= 1
            endpoint.failures += 1
            rest = self._backoff * 2.0 ** min(endpoint.failures - 1, 16) * (0.5 + self._jitter() / 2)
            rest = max(rest, retry_after or 0.0)
            endpoint.rests_until = self._clock() + min(rest, LONGEST_REST_SECONDS)


class Attempts:
    """The tries of one request: at most ``retries`` more than one for each URL, and no URL again after a time-out."""

    def __init__(self, endpoints: Endpoints, retries: int) -> None:
        self._endpoints = endpoints
        self._left = len(endpoints.all) * (retries + 1)
        self._timed_out: set[str] = set()
        self._met: list[tuple[str, str]] = []

    def take(self) -> tuple[Endpoint, float]:
        """Return the endpoint for the next try and the seconds to wait before."""
        self._left -= 1
        return self._endpoints.take(self._timed_out)

    def answered(self, endpoint: Endpoint) -> None:
        """Note that the try was answered."""
        self._endpoints.succeeded(endpoint)

    def abandoned(self, endpoint: Endpoint) -> None:
        """Note that the caller gave up."""
        self._endpoints.give_back(endpoint)

    def failed(self, endpoint: Endpoint, error: Exception) -> None:
        """Note a failure. Raises RequestRefusedError or UnavailableError when no other try makes sense."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if status is not None and status not in RETRIED_STATUSES:
            self._endpoints.succeeded(endpoint)  # it answered; it is the request that is wrong
            raise RequestRefusedError(f"{endpoint.url} refused the request: {reason(error)}", status) from error
        self._endpoints.failed(endpoint, _retry_after(error))
        self._met.append((endpoint.url, reason(error)))
        if isinstance(error, openai.APITimeoutError):
            self._timed_out.add(endpoint.url)
        if self._left <= 0 or len(self._timed_out) == len(self._endpoints.all):
            told = "; ".join(f"{url}: {why}" for url, why in dict(self._met).items())
            tries = f"{len(self._met)} tries" if len(self._met) > 1 else "one try"
            raise UnavailableError(f"no answer after {tries}: {told}", self._met) from error


def reason(error: Exception) -> str:
    """Return why a request failed, in one line."""
    if isinstance(error, openai.APITimeoutError):
        return "it did not answer in time"
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}, {_one_line(_server_message(error))}"
    if isinstance(error, openai.APIConnectionError):
        cause: BaseException = error
        while cause.__cause__ is not None:  # the operating system's own words are at the bottom
            cause = cause.__cause__
        return _one_line(str(cause)) or "the connection failed"
    if not isinstance(error, openai.OpenAIError):
        return "what answers there is not the OpenAI API"
    return _one_line(str(error)) or type(error).__name__


def _server_message(error: openai.APIStatusError) -> str:
    """Return the server's own message: vLLM's ``error.message`` or FastAPI's ``detail``, else the first bytes."""
    body: Any = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        for key in ("message", "detail"):
            if isinstance(inner, dict) and inner.get(key):
                return str(inner[key])
    return str(body) if body else error.response.reason_phrase or "no reason given"


def _one_line(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 3] + "..."


def _retry_after(error: Exception) -> float | None:
    """Return the seconds that the server asked for (``Retry-After`` in seconds, RFC 9110 10.2.3), or None."""
    if not isinstance(error, openai.APIStatusError):
        return None
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None
