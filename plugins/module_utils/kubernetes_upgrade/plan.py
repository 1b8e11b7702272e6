# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The plan of an upgrade, from what is there: so an upgrade that was interrupted goes on where it was.

Rules of kubernetes.io, "Version Skew Policy" and "Upgrading kubeadm clusters": one minor version at a time and never
back; API servers before kubelets; a kubelet is never newer than the API servers and at most two minor versions older,
three from 1.28 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..kubernetes.errors import NodeError
from ..kubernetes.versions import Version
from .cluster import Cluster, Node


@dataclass(frozen=True)
class Step:
    """What is done on a host: control plane (``apply`` on the first, ``node`` on others, empty: none), kubelet."""

    host: str
    node: str
    control_plane: str
    kubelet: bool
    drain: bool


@dataclass(frozen=True)
class Plan:
    """Members in their order, nodes in batches, and who is left alone, node name to why."""

    members: tuple[Step, ...]
    batches: tuple[tuple[Step, ...], ...]
    left: Mapping[str, str]

    @property
    def is_done(self) -> bool:
        """Return whether there is nothing to do."""
        return not self.members and not self.batches


def kubelet_skew(version: Version) -> int:
    """Return how many minor versions a kubelet may be older than an API server of ``version``."""
    return 3 if version.release >= (1, 28) else 2


def refusals(cluster: Cluster, target: Version, hosts: Mapping[str, str], begun: str = "") -> list[str]:
    """Return why this upgrade is not made, a line each. ``hosts``: node name to host of the inventory.

    ``begun`` is the version of an upgrade that has not ended; empty when there is none.
    """
    current, lines = cluster.version, []
    if begun and begun != str(target):
        lines.append(
            f"an upgrade to {begun} has not ended; end it first (upgrade_version={begun.lstrip('v')}), or leave it as "
            "it is with upgrade_abort=true"
        )
    lines += version_refusals(current, target)
    if not cluster.members:
        lines.append("no node is marked as one of the control plane, so nothing says which hosts come first")
    for node in cluster.members:
        if node.name not in hosts:
            lines.append(
                f"member {node.name} is no host of the inventory; all members are upgraded, add it to the "
                "control plane's group"
            )
        elif not node.is_ready and node.cordoned_for != str(target):
            lines.append(f"member {node.name} is not ready; put it right first ('kubectl describe node {node.name}')")
    names = {node.name for node in cluster.nodes}
    lines += [
        f"host {host} is no node of the cluster; join it, or take it out of this run (--limit)"
        for name, host in sorted(hosts.items())
        if name not in names
    ]
    if not lines:
        lines += skew_refusals(cluster, target, hosts)
    return lines


def version_refusals(current: Version, target: Version) -> list[str]:
    """Return why the cluster cannot go from one version to the other, at most one line."""
    if target < current:
        return [f"the cluster has {current}, and kubeadm does not go back to {target}; bring a snapshot back instead"]
    if target.major != current.major or target.minor > current.minor + 1:
        return [f"{current} to {target} skips a minor version; upgrade to {current.major}.{current.minor + 1} first"]
    return []


def skew_refusals(cluster: Cluster, target: Version, hosts: Mapping[str, str]) -> list[str]:
    """Return which kubelets would not go together with API servers of ``target``, a line each."""
    lines = []
    oldest = target.minor - kubelet_skew(target)
    left = left_alone(cluster, target, hosts)
    for node in cluster.nodes:
        if node.kubelet > target:
            lines.append(
                f"node {node.name} has a kubelet {node.kubelet}, newer than {target}; choose that version or a later"
            )
        elif node.name in left and node.kubelet.minor < oldest:
            lines.append(
                f"node {node.name} is left alone ({left[node.name]}) with a kubelet {node.kubelet}, too old for API "
                f"servers of {target}; upgrade or remove that node first"
            )
        elif (
            node.name not in left
            and node.kubelet.minor < cluster.version.minor
            and target.minor > cluster.version.minor
        ):
            lines.append(
                f"node {node.name} has a kubelet {node.kubelet} and the cluster {cluster.version}; end that upgrade "
                f"first (upgrade_version={str(cluster.version).lstrip('v')})"
            )
    return lines


def left_alone(cluster: Cluster, target: Version, hosts: Mapping[str, str]) -> dict[str, str]:
    """Return the nodes that are not touched although they are older, node name to why."""
    found = {}
    for node in cluster.nodes:
        if node.kubelet >= target:
            continue
        if node.name not in hosts:
            found[node.name] = "it is no host of this run"
        elif node.is_cordoned and not node.cordoned_for:
            found[node.name] = "somebody has cordoned it"
        elif not node.is_ready and not node.cordoned_for and not node.is_member:
            found[node.name] = "it is not ready"
    return found


def batch_size(text: str, count: int) -> int:
    """Return how many nodes are upgraded at once: a number, or a share of ``count`` such as 10%; at least one.

    Raises NodeError.
    """
    number = text.strip().removesuffix("%")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= (100 if "%" in text else 10_000):
        raise NodeError(
            f"runtime_controller_upgrade_batch is {text!r}; give a number of nodes, such as 2, or a share, such as 10%"
        )
    return max(1, count * int(number) // 100) if "%" in text else int(number)


def make(cluster: Cluster, target: Version, hosts: Mapping[str, str], order: Sequence[str], batch: str) -> Plan:
    """Return the plan; ``order``: hosts as the inventory has them. Raises NodeError with every reason against it."""
    refused = refusals(cluster, target, hosts)
    if refused:
        raise NodeError("; ".join(refused))
    left = left_alone(cluster, target, hosts)
    place = {host: number for number, host in enumerate(order)}

    def turn(node: Node) -> tuple[bool, int, str]:
        # One that was begun is ended first: it is the one that takes no pods now.
        host = hosts[node.name]
        return node.cordoned_for == "", place.get(host, len(place)), node.name

    known = [node for node in cluster.nodes if node.name in hosts]
    members, applied = [], cluster.version >= target
    for node in sorted((node for node in known if node.is_member), key=turn):
        plane = ""
        if not applied or (node.control_plane or node.kubelet) < target:
            plane, applied = ("node" if applied else "apply"), True
        if plane or _wants_kubelet(node, target, left):
            members.append(_step(node, hosts, plane, target, left))
    workers = [
        _step(node, hosts, "", target, left)
        for node in sorted((node for node in known if not node.is_member), key=turn)
        if _wants_kubelet(node, target, left)
    ]
    size = batch_size(batch, sum(not node.is_member for node in cluster.nodes))
    batches = tuple(tuple(workers[start : start + size]) for start in range(0, len(workers), size))
    return Plan(tuple(members), batches, left)


def _wants_kubelet(node: Node, target: Version, left: Mapping[str, str]) -> bool:
    return node.name not in left and (node.kubelet < target or node.cordoned_for == str(target))


def _step(node: Node, hosts: Mapping[str, str], plane: str, target: Version, left: Mapping[str, str]) -> Step:
    kubelet = _wants_kubelet(node, target, left)
    return Step(hosts[node.name], node.name, plane, kubelet, kubelet)


def lines(plan: Plan, current: Version, target: Version) -> list[str]:
    """Return the plan as a person reads it, a line for each step in its order."""
    if plan.is_done:
        said = [f"nothing to do: the control plane and every node that is not left alone have {target}"]
    else:
        said = [f"{current} to {target}"]
    for number, step in enumerate(plan.members, 1):
        what = " and ".join(
            filter(None, ("control plane" if step.control_plane else "", "kubelet" if step.kubelet else ""))
        )
        said.append(f"member {number} of {len(plan.members)}: {step.node}, {what}")
    for number, batch in enumerate(plan.batches, 1):
        said.append(f"batch {number} of {len(plan.batches)}: {', '.join(step.node for step in batch)}")
    said += [f"left alone: {name}, {why}" for name, why in sorted(plan.left.items())]
    return said
