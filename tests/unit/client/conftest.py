"""What the client's tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.openai_stub import Stub, openai_stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that answers."""
    with openai_stub() as server:
        yield server


@pytest.fixture
def nobody() -> str:
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
