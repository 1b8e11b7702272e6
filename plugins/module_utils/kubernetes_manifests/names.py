# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Names and labels of the objects, and the labels of nodes that pods are placed by."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 63
#: Node labels, derived from a host's hardware: the type as manifests name it, and whole MiB of one accelerator.
ACCELERATOR_LABEL = "accelerator.vllmd.com/type"
ACCELERATOR_MEMORY_LABEL = "accelerator.vllmd.com/memory-mib"
#: Keeps pods that do not tolerate it away from nodes with accelerators.
ACCELERATOR_TAINT = "vllmd.com/accelerator"
HOSTNAME_LABEL = "kubernetes.io/hostname"
ZONE_LABEL = "topology.kubernetes.io/zone"
#: A pod of the runtimes' namespace that says so in a label may use their API.
CLIENT_LABEL = "vllmd.com/client"
#: What a pod template gets itself; a manifest may not decide it.
RUNTIME_LABEL = "app.kubernetes.io/instance"
MANAGER = "vllmd"
_RESERVED_DOMAINS = re.compile(r"(.*\.)?(kubernetes\.io|k8s\.io|vllmd\.com)")
_LABEL_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def is_label_name(text: str) -> bool:
    """Return whether ``text`` may name a label of one's own (kubernetes.io, "Labels and Selectors")."""
    return bool(_LABEL_NAME.fullmatch(text)) and not _RESERVED_DOMAINS.fullmatch(text.rpartition("/")[0])


def is_label_value(text: str) -> bool:
    """Return whether ``text`` may be a label's value."""
    return bool(LABEL_VALUE.fullmatch(text))


def object_name(runtime: str, suffix: str = "") -> str:
    """Return the name of a runtime's object, at most 63 characters; a longer one is cut and told apart by a digest."""
    name = f"{runtime}-{suffix}" if suffix else runtime
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(runtime.encode()).hexdigest()[:8]
    kept = runtime[: LONGEST_NAME - len(suffix) - len(digest) - 2].rstrip("-")
    return f"{kept}-{digest}-{suffix}"


def selector(runtime: str) -> dict[str, str]:
    """Return the labels that select the runtime's pods and its Service; they never change, a Deployment's cannot."""
    return {"app.kubernetes.io/name": "vllm", RUNTIME_LABEL: runtime}


def labels(runtime: str, own: dict[str, str]) -> dict[str, str]:
    """Return the labels of all of a runtime's objects: the manifest's own, and ours."""
    ours = {**selector(runtime), "app.kubernetes.io/part-of": "vllmd", "app.kubernetes.io/managed-by": MANAGER}
    return {**ours, **{name: own[name] for name in sorted(own)}}
