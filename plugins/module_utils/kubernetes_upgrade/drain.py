# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which pods keep a node from being drained, from what ``kubectl drain`` said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: kubectl 1.18 and later quote both names.
_HELD = re.compile(r"evicting pods?/?\s*\"([^\"]+)\"(?:\s+-n\s+\"([^\"]+)\")?.*disruption budget")


def held(said: str) -> list[tuple[str, str]]:
    """Return namespace and name of each pod that a disruption budget held, sorted, each once."""
    return sorted({(match[2] or "default", match[1]) for match in map(_HELD.search, said.splitlines()) if match})


def budgets(
    pods: Iterable[tuple[str, str]], labels: Mapping[tuple[str, str], Mapping[str, str]], found: Iterable[Any]
) -> list[str]:
    """Return NAMESPACE/NAME of the budgets that hold ``pods``; ``labels`` are theirs, ``found`` are the objects.

    A budget without a selector, or with expressions, is named for every pod of its namespace: it may be that one.
    """
    names = set()
    for budget in found:
        namespace = budget["metadata"].get("namespace", "default")
        selector = budget.get("spec", {}).get("selector") or {}
        wanted = (selector.get("matchLabels") or {}).items()
        allowed = budget.get("status", {}).get("disruptionsAllowed", 0)
        for pod in pods:
            if pod[0] == namespace and allowed < 1 and wanted <= labels.get(pod, {}).items():
                names.add(f"{namespace}/{budget['metadata']['name']}")
    return sorted(names)


def why(node: str, said: str, last_line: str, names: Iterable[str] = ()) -> str:
    """Return in one line why ``node`` was not drained."""
    pods = [f"{namespace}/{name}" for namespace, name in held(said)]
    if not pods:
        return f"node {node} cannot be drained: {last_line}"
    by = f" ({', '.join(names)})" if list(names) else ""
    return (
        f"node {node} cannot be drained: a PodDisruptionBudget{by} holds {', '.join(pods[:5])}"
        f"{' and others' if len(pods) > 5 else ''}; let more replicas run or be ready, then run this again"
    )
