"""What the network's models are like: from the model cache when they were loaded before, else from the hub's API.

Two small requests instead of a download: whether a model fits is known before gigabytes of it have arrived.
"""
# Read at boot on an emulated CPU, where pathlib costs more than all of this:
# ruff: noqa: PTH113, PTH118, PTH123

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from vllmd_node import model
from vllmd_node.model import DTYPE_BYTES, Model, ModelError

ENDPOINT = "https://huggingface.co"
_TIMEOUT_SECONDS = 10.0

Fetch = Callable[[str, str], bytes]


def find(repository: str, revision: str, environment: Mapping[str, str], fetch: Fetch | None = None) -> Model:
    """Return the model of a hub repository. ModelError says why it is not known; that is no reason not to serve."""
    cached = snapshot(repository, revision, environment)
    if cached:
        try:
            return model.read(cached)
        except ModelError:
            pass  # half downloaded; the hub knows
    if environment.get("HF_HUB_OFFLINE") in ("1", "true", "TRUE", "yes"):
        raise ModelError(f"{repository} is not in the model cache and HF_HUB_OFFLINE is set")
    endpoint = environment.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    token = environment.get("HF_TOKEN", "")
    fetch = fetch or _fetch
    about = model.parse_config(
        fetch(f"{endpoint}/api/models/{repository}/revision/{revision}", token), f"the hub's answer on {repository}"
    )
    config = model.parse_config(
        fetch(f"{endpoint}/{repository}/resolve/{revision}/config.json", token), f"config.json of {repository}"
    )
    return model.from_config(config, _weights(about))


def snapshot(repository: str, revision: str, environment: Mapping[str, str]) -> str:
    """Return the directory of the cached repository (huggingface_hub's cache layout), or an empty string."""
    home = environment.get("HF_HUB_CACHE") or os.path.join(environment.get("HF_HOME", "/nonexistent"), "hub")
    base = os.path.join(home, "models--" + repository.replace("/", "--"))
    commit = revision
    try:
        with open(os.path.join(base, "refs", revision), encoding="utf-8") as stream:
            commit = stream.read(100).strip()
    except (OSError, ValueError):
        pass  # a commit itself, or nothing cached
    directory = os.path.join(base, "snapshots", commit)
    return directory if os.path.isfile(os.path.join(directory, "config.json")) else ""


def _weights(about: dict[str, Any]) -> dict[str, int]:
    """Return the bytes by dtype from the API's count of parameters."""
    safetensors = about.get("safetensors")
    parameters = safetensors.get("parameters") if isinstance(safetensors, dict) else None
    found: dict[str, int] = {}
    for dtype, count in (parameters if isinstance(parameters, dict) else {}).items():
        if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 2**50:
            key = dtype if dtype in DTYPE_BYTES else "U8"
            found[key] = found.get(key, 0) + count * DTYPE_BYTES[key]
    return found


def _fetch(url: str, token: str) -> bytes:
    """Return what is at ``url``; ModelError in one line when it cannot be had."""
    from http.client import HTTPException  # noqa: PLC0415 -- only where the model comes from the network
    from urllib.error import HTTPError, URLError  # noqa: PLC0415
    from urllib.request import Request, urlopen  # noqa: PLC0415

    if not url.startswith(("https://", "http://")):
        raise ModelError(f"HF_ENDPOINT gives {url[:60]}, which is no http address")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = Request(url, headers=headers)  # noqa: S310 -- checked above
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 -- checked above
            return bytes(response.read(model.CONFIG_LIMIT + 1))
    except HTTPError as error:
        raise ModelError(f"{url} answers {error.code}") from None
    except URLError as error:
        raise ModelError(f"{url} cannot be reached: {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ModelError(f"{url} cannot be reached: {error or type(error).__name__}") from None


def describe(found: Model) -> dict[str, Any]:
    """Return a model as plain data for reports."""
    return {**vars(found), "parameters": found.parameters, "stored_bytes": found.stored_bytes}
