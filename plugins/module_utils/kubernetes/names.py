# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Names, labels and taints as Kubernetes writes them; the guest's join.py has the same rules, a test compares them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import NodeError

#: Longest value of a label and longest name of one without its prefix (kubernetes.io, "Labels and Selectors").
LONGEST = 63
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
#: RFC 1123 subdomain: a node's name, and a label's prefix.
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
#: The labels of these domains that a kubelet may give itself (kubernetes.io, "NodeRestriction").
_RESERVED = re.compile(r"(.*\.)?(kubernetes|k8s)\.io")
_ALLOWED = re.compile(r"(.*\.)?(kubelet|node)\.kubernetes\.io")
_ALLOWED_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    }
)


def node_name(given: str) -> str:
    """Return the name that a node gets: lower case, as kubeadm makes it of a host's name. Raises NodeError."""
    name = given.strip().lower()
    if not _SUBDOMAIN.fullmatch(name):
        raise NodeError(f"node name {given[:80]!r}: write a DNS name of a-z, 0-9, dash and dot, such as gpu-01")
    return name


def is_key(text: str) -> bool:
    """Return whether ``text`` is a label's or taint's key, such as ``vllmd.com/model``."""
    prefix, slash, name = text.rpartition("/")
    return bool(_NAME.fullmatch(name)) and (not slash or bool(_SUBDOMAIN.fullmatch(prefix)))


def is_value(text: str) -> bool:
    """Return whether ``text`` can be the value of a label or taint; empty can."""
    return text == "" or bool(_NAME.fullmatch(text))


def legal_value(text: str) -> str:
    """Return ``text`` as a label's value: what is not allowed becomes a dash, what is too long is cut."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")[:LONGEST]
    return cleaned.rstrip("-_.")


def labels(given: Mapping[str, Any]) -> dict[str, str]:
    """Return labels that a kubelet may give its node, sorted by key. Raises NodeError."""
    result = {}
    for key, value in given.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not is_key(str(key)):
            raise NodeError(f"label {str(key)[:80]!r}: write a label's name, such as vllmd.com/model")
        if not is_value(text):
            raise NodeError(
                f"label {key}: {text[:80]!r} is no value; at most 63 of letters, digits, dash, dot, underscore"
            )
        prefix = str(key).rpartition("/")[0]
        if _RESERVED.fullmatch(prefix) and not _ALLOWED.fullmatch(prefix) and key not in _ALLOWED_LABELS:
            raise NodeError(
                f"label {key}: a node may not give itself this label; use a domain of your own or node.kubernetes.io"
            )
        result[str(key)] = text
    return dict(sorted(result.items()))


def taints(given: Sequence[Any]) -> list[dict[str, str]]:
    """Return taints with key, value and effect, in the order given. Raises NodeError."""
    result: list[dict[str, str]] = []
    for taint in given:
        if not isinstance(taint, Mapping) or not {"key", "effect"} <= set(taint) <= {"key", "value", "effect"}:
            raise NodeError(
                f"taint {str(taint)[:80]}: write {{key: ..., value: ..., effect: ...}}; value may be left out"
            )
        key, value, effect = str(taint["key"]), str(taint.get("value") or ""), str(taint["effect"])
        if not is_key(key):
            raise NodeError(f"taint {key[:80]!r}: write a taint's key, such as vllmd.com/accelerator")
        if not is_value(value):
            raise NodeError(
                f"taint {key}: {value[:80]!r} is no value; at most 63 of letters, digits, dash, dot, underscore"
            )
        if effect not in EFFECTS:
            raise NodeError(f"taint {key}: effect {effect[:40]!r}; allowed: {', '.join(EFFECTS)}")
        if any(other["key"] == key and other["effect"] == effect for other in result):
            raise NodeError(f"taint {key}:{effect} is there twice; Kubernetes allows one value for each key and effect")
        result.append({"key": key, "value": value, "effect": effect})
    return result
