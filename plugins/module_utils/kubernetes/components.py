# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a cluster gets after its control plane, in the order of what needs what, and what to wait for in each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import NodeError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What can be waited for, and by which of kubectl's commands.
ROLLOUTS = ("daemonset", "deployment", "statefulset")
CONDITIONS = {"crd": "Established", "job": "Complete", "node": "Ready", "pod": "Ready"}
_CLUSTER_WIDE = ("crd", "node")


@dataclass(frozen=True)
class Wait:
    """One object that has to be there and ready. ``namespace`` is empty for what is the whole cluster's."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return it as a person says it: ``daemonset kube-system/kube-proxy``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def arguments(self, seconds: int) -> list[str]:
        """Return kubectl's arguments that wait for at most ``seconds``."""
        where = ["--namespace", self.namespace] if self.namespace else []
        if self.kind in ROLLOUTS:
            return ["rollout", "status", f"{self.kind}/{self.name}", *where, f"--timeout={seconds}s"]
        return [
            "wait",
            f"--for=condition={CONDITIONS[self.kind]}",
            f"{self.kind}/{self.name}",
            *where,
            f"--timeout={seconds}s",
        ]


def parse_wait(text: str) -> Wait:
    """Return what ``daemonset/kube-system/cilium`` or ``node/gpu-01`` waits for. Raises NodeError."""
    kind, *rest = str(text).strip().split("/")
    if kind in _CLUSTER_WIDE and len(rest) == 1 and rest[0]:
        return Wait(kind, "", rest[0])
    if (kind in ROLLOUTS or kind in CONDITIONS) and kind not in _CLUSTER_WIDE and len(rest) == 2 and all(rest):
        return Wait(kind, rest[0], rest[1])
    kinds = ", ".join(sorted({*ROLLOUTS, *CONDITIONS}))
    raise NodeError(
        f"wait {str(text)[:80]!r}: write KIND/NAMESPACE/NAME, for crd and node KIND/NAME; kinds are {kinds}"
    )


def ordered(components: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return components so that each stands behind those that it names in ``after``; else in the order given.

    Each has name, manifests (paths), after and wait. Raises NodeError for a name twice, one that is unknown, a circle.
    """
    known: dict[str, dict[str, Any]] = {}
    for component in components:
        name = str(component.get("name", ""))
        if not _NAME.fullmatch(name):
            raise NodeError(f"component {name[:80]!r}: write a name of a-z, 0-9 and dash")
        if name in known:
            raise NodeError(f"component {name} is there twice")
        known[name] = {
            "name": name,
            "manifests": [str(path) for path in component.get("manifests") or []],
            "after": [str(other) for other in component.get("after") or []],
            "wait": [str(wait) for wait in component.get("wait") or []],
        }
        for wait in known[name]["wait"]:
            parse_wait(wait)
    for component in known.values():
        for other in component["after"]:
            if other not in known:
                raise NodeError(f"component {component['name']}: it comes after {other}, which is no component")
    result: list[dict[str, Any]] = []
    placed: set[str] = set()
    while len(result) < len(known):
        ready = [each for each in known.values() if each["name"] not in placed and set(each["after"]) <= placed]
        if not ready:
            left = ", ".join(name for name in known if name not in placed)
            raise NodeError(f"components {left}: each comes after another of them; take one 'after' away")
        result.append(ready[0])
        placed.add(ready[0]["name"])
    return result
