# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One change of an inventory's hosts at a time: the collection's lock, whose refusal names owner, command and age."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import places
from .errors import BUSY, CtlError


def lock_path(inventory: Path) -> Path:
    """Return the lock file: beside the hosts, so that all who use the inventory meet; else among one's own state."""
    directory = inventory if inventory.is_dir() else inventory.parent
    if os.access(directory, os.W_OK):
        return directory / ".vllmdctl.lock"
    name = hashlib.sha256(str(inventory.resolve()).encode()).hexdigest()[:16]
    return places.make_private_directory(places.state_directory()) / f"{name}.lock"


@contextmanager
def exclusive(inventory: Path, command: str) -> Iterator[None]:
    """Hold the inventory's lock while the block runs. Raises CtlError when somebody else does."""
    locks = _locks()
    path = lock_path(inventory)
    held = locks.exclusive(path, str(inventory), command=f"vllmdctl {command}")
    try:
        held.__enter__()
    except locks.LockedError as error:
        raise CtlError(str(error), BUSY) from None
    except OSError as error:
        raise CtlError(
            f"cannot open the lock {path}: {error.strerror}; make room there, or correct its owner or mode"
        ) from None
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 75 -> "1m15s"."""
    return str(_locks().duration(seconds))


def _locks() -> Any:
    places.use_collection()
    from ansible_collections.vllmd.platform.plugins.module_utils import locks

    return locks
