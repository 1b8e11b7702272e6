# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A replica's load as vLLM's /metrics tells it (Prometheus' text format; vLLM's documentation, production metrics).

Guests are not trusted: an answer is read up to a limit, and numbers that are none count as not told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector

from .scaling import Load

LIMIT_BYTES = 8 * 1024 * 1024
_SAMPLE = re.compile(r"(vllm:[a-z_]+)(?:\{.*\})? +([^ ]+)", re.ASCII)
_WAITING, _RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
#: The newer name first.
_KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_NAMES = {_WAITING, _RUNNING, *_KV_CACHE}


def load_of(metrics: str) -> Load | None:
    """Return the load of all engines of one server together, None when it does not say all of it."""
    samples: dict[str, list[float]] = {}
    for match in map(_SAMPLE.match, metrics.splitlines()):
        if match is None or match[1] not in _NAMES:
            continue
        try:
            value = float(match[2])
        except ValueError:
            return None
        if not math.isfinite(value) or value < 0:
            return None
        samples.setdefault(match[1], []).append(value)
    cache = next((samples[name] for name in _KV_CACHE if name in samples), None)
    if cache is None or _WAITING not in samples or _RUNNING not in samples:
        return None
    return Load(sum(samples[_WAITING]), sum(samples[_RUNNING]), min(1.0, sum(cache) / len(cache)))


def ask(opener: OpenerDirector, url: str, timeout: float) -> dict[str, Any]:
    """Return the load of the server at ``url`` (without a path), ``waiting``, ``running`` and ``kv_cache``.

    Or ``error``, why it is not known: one whose /health does not answer 200 tells nothing.
    """
    try:
        with opener.open(f"{url}/health", timeout=timeout) as response:
            if response.status != 200:
                return {"error": f"/health answered {response.status}"}
        with opener.open(f"{url}/metrics", timeout=timeout) as response:
            text = response.read(LIMIT_BYTES).decode("utf-8", "replace")
    except HTTPError as error:
        return {"error": f"it answered {error.code}"}
    except URLError as error:
        return {"error": str(error.reason)}
    except (OSError, HTTPException, ValueError) as error:
        return {"error": str(error) or type(error).__name__}
    load = load_of(text)
    return {"error": "/metrics does not tell vLLM's load"} if load is None else asdict(load)


def loads(answers: Iterable[Any]) -> list[Load]:
    """Return the loads among what `ask` answered."""
    return [
        Load(float(each["waiting"]), float(each["running"]), float(each["kv_cache"]))
        for each in answers
        if isinstance(each, dict) and "error" not in each and {"waiting", "running", "kv_cache"} <= each.keys()
    ]
