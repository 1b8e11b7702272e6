"""Two hosts whose guests boot in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small_fleet import SmallFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SmallFleet]:
    """Hosts without a runtime; what a test leaves running is ended."""
    with SmallFleet(tmp_path) as made:
        yield made
