# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which replicas an update replaces, and in which order: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils import rolling_update


class FilterModule:
    """The collection's filters on updates."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "runtime_siblings": rolling_update.siblings,
            "runtimes_due": rolling_update.due,
            "update_lines": rolling_update.lines,
            "update_order": rolling_update.order,
            "update_others": rolling_update.others,
        }
