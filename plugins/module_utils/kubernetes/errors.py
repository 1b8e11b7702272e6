# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The one error of this package."""

from __future__ import annotations


class NodeError(ValueError):
    """What is wrong with a node or with what was given for it: one line for a person, without secrets."""
