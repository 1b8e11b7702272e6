# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The rules of a Runtime whose ``spec.placement.target`` is ``kubernetes``: what a cluster cannot keep is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .kubernetes_manifests.names import is_label_name, is_label_value
from .manifest_schema import Problem, problem
from .yaml_marks import Document, Path

_WHERE = "with spec.placement.target kubernetes"
#: Fields of a virtual machine that demand what a cluster decides otherwise, and what to do instead.
_REFUSED: tuple[tuple[Path, str], ...] = (
    (
        ("spec", "kubernetes"),
        "it makes a virtual machine a node; remove it, or set spec.placement.target to hypervisor",
    ),
    (("spec", "placement", "devices"), "a device plugin gives out devices; set spec.resources.accelerator_type"),
    (("spec", "placement", "numa_node"), "the kubelet's topology manager chooses NUMA nodes; remove it"),
    (("spec", "storage", "cache", "device"), "the cache is a PersistentVolumeClaim; set size instead"),
    (("spec", "storage", "cache", "format"), "the cache is a PersistentVolumeClaim; remove it"),
    (("spec", "profile"), "profiles are applied by a virtual machine; say the options in spec.engine"),
)
_NETWORK_MODES = ("user", "isolated")
#: Names of what would be a secret in the clear. In a cluster everybody who may read a Deployment reads its environment.
_SECRET = re.compile(r"(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)", re.IGNORECASE)
_SECRET_OPTIONS = ("api-key", "hf-token")


def target_rules(document: Document) -> Iterator[Problem]:
    """Yield one problem per field that a cluster cannot keep. The schema holds already."""
    data = document.data
    spec = data["spec"]
    if not data["metadata"]["name"][0].isalpha():
        found = (
            f"found {data['metadata']['name']!r}; allowed {_WHERE}: a name that begins with a letter, because it is a"
        )
        yield problem(document, ("metadata", "name"), f"{found} Service's, too")
    if "target" in spec:
        message = f"found {spec['target']!r}, but spec.placement.target is kubernetes; remove spec.target"
        yield problem(document, ("spec", "target"), message)
    for path, instead in _REFUSED:
        if _is_given(data, path):
            yield problem(document, path, f"not allowed {_WHERE}: {instead}")
    mode = spec.get("network", {}).get("mode", "user")
    if mode not in _NETWORK_MODES:
        message = f"found {mode!r}; allowed {_WHERE}: {', '.join(_NETWORK_MODES)}"
        yield problem(document, ("spec", "network", "mode"), message)
    yield from _label_rules(document, data["metadata"].get("labels", {}))
    for index, host in enumerate(spec["placement"].get("hosts", [])):
        if not is_label_value(host):
            message = f"found {host[:80]!r}; allowed {_WHERE}: a node's name, at most 63 characters"
            yield problem(document, ("spec", "placement", "hosts", index), message)
    yield from _secret_rules(document, spec)


def _is_given(data: Any, path: Path) -> bool:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    # An empty list and a profile of none demand nothing.
    return data not in ([], "none") and data is not False


def _label_rules(document: Document, labels: dict[str, str]) -> Iterator[Problem]:
    for name, value in labels.items():
        path = ("metadata", "labels", name)
        if not is_label_name(name):
            allowed = "a label's name such as example.com/team, of no domain of Kubernetes or vllmd.com"
            yield problem(document, path, f"not a possible name {_WHERE}; allowed: {allowed}")
        elif not is_label_value(value):
            allowed = "at most 63 of letters, digits, dash, dot and underscore"
            yield problem(document, path, f"found {value!r}; allowed {_WHERE}: {allowed}")


def _secret_rules(document: Document, spec: dict[str, Any]) -> Iterator[Problem]:
    instead = (
        f"not allowed {_WHERE}: everybody who may read the Deployment would read it; "
        "name a Secret in vllmd_kubernetes_secrets"
    )
    for name in spec.get("engine_environment", {}):
        if _SECRET.fullmatch(name):
            yield problem(document, ("spec", "engine_environment", name), instead)
    for option in spec.get("engine", {}):
        if option.replace("_", "-") in _SECRET_OPTIONS:
            yield problem(document, ("spec", "engine", option), instead)
