# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a run is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..host.model import Host
from .plan import Request
from .record import Store
from .refuse import Refusal
from .services import Services
from .sysfs import Sysfs


@dataclass(frozen=True)
class Options:
    """What to do. ``step_seconds`` bounds each step of a device, ``handles_seconds`` the wait for open handles."""

    request: Request
    stop_services: tuple[str, ...] = ()
    handles_seconds: float = 0
    step_seconds: float = 30
    persistent: bool = True
    node_group: str = ""


@dataclass(frozen=True)
class Outside:
    """The host: its sysfs, the record, how to read it, its services, its files, and whether to change nothing."""

    sysfs: Sysfs
    store: Store
    read: Callable[[], Host]
    services: Services
    root: Path
    check: bool = False


@dataclass
class Outcome:
    """What a run did, or in check mode would do; ``errors`` are lines, and none means success."""

    changed: bool = False
    groups: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    diff: list[dict[str, Any]] = field(default_factory=list)
    initramfs: str = ""
    initramfs_stale: bool = False
    is_systemd: bool = False
