# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Why a host cannot be a node of a cluster, one line for each reason: where, what, why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .host_state import HostState
from .packages import upstream
from .pins import Membership
from .versions import Version

#: The kubelet's API and its health check (kubernetes.io, "Ports and Protocols").
PORTS = {10248: "kubelet's health check", 10250: "kubelet"}
#: The kubelet refuses certificates that are not valid yet; a cluster's own are dated back by minutes at most.
CLOCK_SECONDS = 120
#: Since 1.35 the kubelet does not start on cgroup v1 (kubernetes.io, "About cgroup v2").
_CGROUP_V2 = (1, 35)
_CONTAINERS = ("systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "container", "container-other")


@dataclass(frozen=True)
class Wanted:
    """What the host is to be. ``swap`` is disable, allow or refuse; ``sysctl`` are keys with the values they must have.

    ``address`` is the one that the kubelet is told to register with, empty for its own choice. ``state`` is joined or
    prepared.
    """

    name: str
    version: Version
    swap: str = "disable"
    cgroup_driver: str = "systemd"
    address: str = ""
    modules: Sequence[str] = ()
    sysctl: Mapping[str, str] = field(default_factory=dict)
    pins: Sequence[str] = ()
    endpoint: str = ""
    state: str = "joined"


@dataclass(frozen=True)
class Around:
    """What the host's files do not tell.

    ``clock_offset`` is the host's time minus the controller's, in seconds. ``unresolved`` are names that did not
    resolve. ``nodes`` are the cluster's own, each with name, machine_id and system_uuid; empty when nobody was asked.
    ``virtualization``, ``init`` and ``cgroup_layout`` are as in module host_facts. ``kubelet`` is the Debian version
    of the package that is installed, empty for none.
    """

    membership: Membership | None = None
    clock_offset: float = 0.0
    is_clock_synchronized: bool | None = None
    unresolved: Sequence[str] = ()
    nodes: Sequence[Mapping[str, Any]] = ()
    virtualization: str = ""
    init: str = "systemd"
    cgroup_layout: str = "unified"
    kubelet: str = ""


def is_member(around: Around, wanted: Wanted) -> bool:
    """Return whether the host is a node of the cluster with the wanted pins already."""
    return around.membership is not None and bool(set(around.membership.pins) & set(wanted.pins))


def problems(host: HostState, wanted: Wanted, around: Around) -> list[str]:
    """Return why the host cannot be what is wanted; empty when nothing stands against it."""
    found = [*_prerequisites(host, wanted, around), *_clock(around)]
    if around.membership is not None and wanted.state == "joined" and not is_member(around, wanted):
        found.append(foreign(around.membership, wanted))
    elif around.membership is None:
        found += [*_ports(host), *_names(wanted, around), *_identity(host, wanted, around)]
    if around.membership is not None:
        found += _version(wanted, around)
    return found


def foreign(membership: Membership, wanted: Wanted) -> str:
    """Return what to do with a host that is a node of another cluster."""
    return (
        f"cluster: this host is a node of {membership.server} ({', '.join(membership.pins)}), not of "
        f"{wanted.endpoint}; "
        "make it leave first (kubernetes_node_state: left), or correct the endpoint's CA pin"
    )


def sysctl_differs(host: HostState, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return the kernel settings that have another value now, with the wanted one."""
    return {key: " ".join(str(value).split()) for key, value in wanted.items() if host.sysctl.get(key) != str(value)}


def _version(wanted: Wanted, around: Around) -> list[str]:
    """A node changes its minor version drained and after its control plane, which is no matter of joining."""
    installed = upstream(around.kubelet)
    if not installed or installed.split(".")[:2] == [str(part) for part in wanted.version.release]:
        return []
    return [
        f"version: this node's kubelet is {installed}, and {wanted.version} is asked for; drain the node "
        f"and follow 'kubeadm "
        "upgrade node', or let it leave and join again"
    ]


def _prerequisites(host: HostState, wanted: Wanted, around: Around) -> list[str]:
    found = []
    if host.swaps and wanted.swap == "refuse":
        found.append(
            f"swap: {', '.join(host.swaps)} is on; the kubelet does not start with swap: switch it off, "
            f"or let the role do so "
            "(kubernetes_node_swap: disable)"
        )
    found += [
        f"module: {name} is neither loaded nor among the modules of the running kernel; install the "
        f"kernel's modules, or "
        "reboot into the kernel that is installed"
        for name in wanted.modules
        if name not in host.modules and name not in host.loadable
    ]
    # What a module brings when it is loaded cannot be read before.
    brought = ("net.bridge.",) if "br_netfilter" not in host.modules else ()
    found += [
        f"sysctl: the kernel has no {key}; take it out of kubernetes_node_sysctl, or boot a kernel that has it"
        for key in wanted.sysctl
        if key not in host.sysctl and not key.startswith(brought)
    ]
    if wanted.cgroup_driver == "systemd" and around.init != "systemd":
        found.append(
            f"cgroup driver: systemd is wanted and this host's init is {around.init or 'unknown'}; set "
            "kubernetes_node_cgroup_driver: cgroupfs"
        )
    if wanted.version.release >= _CGROUP_V2 and around.cgroup_layout not in ("unified", ""):
        found.append(
            f"cgroups: the layout is {around.cgroup_layout}, and the kubelet of {wanted.version} starts "
            f"on cgroup v2 only; "
            "boot with systemd.unified_cgroup_hierarchy=1"
        )
    return found


def _clock(around: Around) -> list[str]:
    if abs(around.clock_offset) > CLOCK_SECONDS:
        direction = "ahead of" if around.clock_offset > 0 else "behind"
        return [
            f"clock: {abs(around.clock_offset):.0f} s {direction} the controller's; certificates would not be valid: "
            "synchronise it (systemd-timesyncd or chrony)"
        ]
    # A container has the clock of the machine below it and cannot set it.
    if around.is_clock_synchronized is False and around.virtualization not in _CONTAINERS:
        return [
            "clock: it is not synchronised; certificates stop being valid when it drifts: start "
            "systemd-timesyncd or chrony"
        ]
    return []


def _ports(host: HostState) -> list[str]:
    return [
        f"port: {port} is in use, and {what} needs it; 'ss -ltnp sport = :{port}' says by whom, stop that"
        for port, what in PORTS.items()
        if port in host.listening
    ]


def _names(wanted: Wanted, around: Around) -> list[str]:
    return [
        f"name: {name} does not resolve on this host; enter it in DNS or /etc/hosts"
        + ("" if name != wanted.name else ", or set kubernetes_node_address")
        for name in around.unresolved
        if name != wanted.name or not wanted.address
    ]


def _identity(host: HostState, wanted: Wanted, around: Around) -> list[str]:
    found = []
    if len(host.machine_id) != 32:
        found.append("machine-id: /etc/machine-id is empty or malformed; run 'systemd-machine-id-setup'")
    for node in around.nodes:
        name = node.get("name")
        if name == wanted.name:
            found.append(
                f"node name: the cluster has a node {name} already; give this host another name "
                f"(kubernetes_node_name), or "
                f"delete that node when it is gone for good ('kubectl delete node {name}')"
            )
        elif host.machine_id and node.get("machine_id") == host.machine_id:
            found.append(
                f"machine-id: node {name} has the same, {host.machine_id}; this host is a clone: remove "
                f"/etc/machine-id, run "
                "'systemd-machine-id-setup' and reboot"
            )
        elif (
            around.virtualization not in _CONTAINERS
            and host.product_uuid
            and str(node.get("system_uuid", "")).lower() == host.product_uuid
        ):
            found.append(
                f"product uuid: node {name} has the same, {host.product_uuid}; give the virtual machine one of its own"
            )
    return found
