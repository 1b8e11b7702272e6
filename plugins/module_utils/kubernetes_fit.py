# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether a cluster's nodes have what a Deployment's pods demand, said before it is submitted.

A node counts as the scheduler would count it: ready, not cordoned, with the labels that the pod selects, with taints
that it tolerates, and with what is allocatable less what other pods request (kubernetes.io, "Assigning Pods to Nodes",
"Taints and Tolerations", "Resource Management for Pods and Containers"). Amounts are in thousandths, CPUs as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .quantities import MILLIS, QuantityError, parse_millis

_ENDED = ("Succeeded", "Failed")
_HOSTNAME = "kubernetes.io/hostname"
_GIB = 2**30


@dataclass(frozen=True)
class Cluster:
    """What the API has: Nodes, Pods of all namespaces, and the names of RuntimeClasses."""

    nodes: Sequence[Mapping[str, Any]]
    pods: Sequence[Mapping[str, Any]] = ()
    runtime_classes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Match:
    """What a node lacks, one text for each, how much of the demands that is, and how many pods have room on it."""

    node: str
    lacks: tuple[str, ...]
    shortage: float
    room: int


def misfit(deployment: Mapping[str, Any], replicas: int, cluster: Cluster) -> str:
    """Return why ``replicas`` pods of the Deployment find no place, with the nearest node; empty when they do.

    Pods that the Deployment has already, by its selector and namespace, count as gone: it replaces them.
    """
    name, spec = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
    wanted_class = spec.get("runtimeClassName")
    if wanted_class and wanted_class not in cluster.runtime_classes:
        known = ", ".join(sorted(cluster.runtime_classes)) or "none"
        return f"runtime {name}: the cluster has no RuntimeClass {wanted_class}; it has {known}"
    if not cluster.nodes:
        return f"runtime {name}: the cluster has no node; join one by playbooks/join.yml"
    used = _used(deployment, cluster.pods)
    matches = [_match(node, spec, used.get(_name(node), {})) for node in cluster.nodes]
    one_each = _is_alone(spec)
    room = sum(min(each.room, 1) if one_each else each.room for each in matches)
    if room >= replicas:
        return ""
    # Nearest is what lacks the fewest things, and of those the least.
    others = [each for each in matches if each.lacks]
    nearest = min(others, key=lambda each: (len(each.lacks), each.shortage, each.node), default=None)
    apart = ", each on a node of its own" if one_each and replicas > 1 else ""
    if nearest is None:
        return f"runtime {name}: {replicas} replicas are wanted{apart}, and the nodes have room for {room}"
    what = (
        "no node has room for it"
        if room == 0
        else f"{replicas} replicas are wanted{apart}, and there is room for {room}"
    )
    return f"runtime {name}: {what}; nearest is {nearest.node}: {', '.join(nearest.lacks)}"


def misfits(objects: Iterable[Mapping[str, Any]], cluster: Cluster) -> list[str]:
    """Return a line for each Deployment whose lowest number of replicas finds no place beside those before it."""
    found = list(objects)
    lowest = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicas"]
        for each in found
        if each["kind"] == "HorizontalPodAutoscaler"
    }
    lines = []
    for each in found:
        if each["kind"] == "Deployment":
            name = each["metadata"]["name"]
            lines.append(misfit(each, int(lowest.get(name, each["spec"].get("replicas", 1))), cluster))
    return [line for line in lines if line]


def _name(node: Mapping[str, Any]) -> str:
    return str(node["metadata"]["name"])


def _amount(value: Any) -> int:
    """Return a quantity in thousandths; what the API itself would not have taken counts as nothing."""
    try:
        return parse_millis(value)
    except QuantityError:
        return 0


def _requests(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return what a pod requests: its containers together, or its largest init container, and its overhead."""
    total: dict[str, int] = {"pods": MILLIS}
    for container in spec.get("containers") or []:
        for key, value in _of_container(container).items():
            total[key] = total.get(key, 0) + value
    for container in spec.get("initContainers") or []:
        for key, value in _of_container(container).items():
            total[key] = max(total.get(key, 0), value)
    for key, value in (spec.get("overhead") or {}).items():
        total[key] = total.get(key, 0) + _amount(value)
    return total


def _of_container(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    # A limit without a request is the request, too.
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {key: _amount(value) for key, value in merged.items()}


def _used(deployment: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return by node what pods request there that are not the Deployment's own."""
    selector = deployment["spec"]["selector"]["matchLabels"].items()
    found: dict[str, dict[str, int]] = {}
    for pod in pods:
        node, metadata = pod["spec"].get("nodeName"), pod["metadata"]
        is_own = metadata.get("namespace") == deployment["metadata"].get("namespace")
        is_own = is_own and selector <= (metadata.get("labels") or {}).items()
        if not node or is_own or (pod.get("status") or {}).get("phase") in _ENDED:
            continue
        total = found.setdefault(node, {})
        for key, value in _requests(pod["spec"]).items():
            total[key] = total.get(key, 0) + value
    return found


def _match(node: Mapping[str, Any], spec: Mapping[str, Any], used: Mapping[str, int]) -> _Match:
    status = node.get("status") or {}
    lacks = [*_state(node), *_labels(node, spec), *_taints(node, spec)]
    demands = _requests(spec)
    free = {key: _amount((status.get("allocatable") or {}).get(key, 0)) - used.get(key, 0) for key in demands}
    short = {key: (wanted - free[key]) / wanted for key, wanted in demands.items() if free[key] < wanted}
    lacks += [
        f"{_shown(key, free[key])} of {key} free, and {_shown(key, demands[key])} wanted" for key in sorted(short)
    ]
    room = 0 if lacks else min(free[key] // wanted for key, wanted in demands.items() if wanted)
    return _Match(_name(node), tuple(lacks), sum(short.values()), room)


def _shown(key: str, millis: int) -> str:
    value = max(0, millis) / MILLIS
    if key in ("memory", "ephemeral-storage") or key.startswith("hugepages-"):
        return f"{value / _GIB:.1f} GiB"
    return f"{value:g}"


def _state(node: Mapping[str, Any]) -> list[str]:
    conditions = (node.get("status") or {}).get("conditions") or []
    is_ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    cordoned = bool((node.get("spec") or {}).get("unschedulable"))
    return ([] if is_ready else ["it is not ready"]) + (["it is cordoned"] if cordoned else [])


def _labels(node: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    labels = node["metadata"].get("labels") or {}
    lacks = [_differs(labels, key, f"{value}") for key, value in (spec.get("nodeSelector") or {}).items()]
    lacks = [each for each in lacks if each]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    # One of the terms is enough; the one that lacks the least is told.
    terms = [_term(labels, term.get("matchExpressions") or []) for term in required.get("nodeSelectorTerms") or []]
    return lacks + (min(terms, key=len) if terms else [])


def _differs(labels: Mapping[str, str], key: str, wanted: str) -> str:
    if labels.get(key) == wanted:
        return ""
    return f"label {key} is {labels[key]}, not {wanted}" if key in labels else f"no label {key}={wanted}"


def _term(labels: Mapping[str, str], expressions: Iterable[Mapping[str, Any]]) -> list[str]:
    lacks = []
    for each in expressions:
        key, operator, values = each["key"], each["operator"], [str(value) for value in each.get("values") or []]
        value = labels.get(key)
        if not _holds(value, operator, values):
            found = f"is {value}" if value is not None else "is missing"
            lacks.append(f"label {key} {found}, wanted {operator} {', '.join(values)}".rstrip())
    return lacks


def _holds(value: str | None, operator: str, values: Sequence[str]) -> bool:
    if operator in ("In", "NotIn"):
        return (value in values) == (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    try:
        number, limit = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > limit if operator == "Gt" else number < limit


def _taints(node: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    tolerations = spec.get("tolerations") or []
    return [
        f"taint {taint['key']}={taint.get('value') or ''}:{taint['effect']} is not tolerated"
        for taint in (node.get("spec") or {}).get("taints") or []
        # What a cordon and a node that is not ready bring with them is told in words.
        if taint["effect"] != "PreferNoSchedule"
        and not taint["key"].startswith("node.kubernetes.io/")
        and not any(_tolerates(each, taint) for each in tolerations)
    ]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value") or "") == (taint["key"], taint.get("value") or "")


def _is_alone(spec: Mapping[str, Any]) -> bool:
    """Return whether no two of the pods may be on one node."""
    anti = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    terms = anti.get("requiredDuringSchedulingIgnoredDuringExecution") or []
    return any(each.get("topologyKey") == _HOSTNAME for each in terms)
