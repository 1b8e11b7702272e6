# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What kubeadm is given to make a control plane, and to add a member to one, in the version of its API it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import joining, versions
from .errors import NodeError

#: Files that the API server reads besides kubeadm's own, on every member.
DIRECTORY = "/etc/kubernetes/apiserver"
AUDIT_DIRECTORY = "/var/log/kubernetes/audit"
#: Components that take arguments, as ClusterConfiguration names them.
COMPONENTS = ("apiServer", "controllerManager", "scheduler")
#: Since 1.23 Pod Security is on by default and reads a configuration (kubernetes.io, "Pod Security Admission").
POD_SECURITY = (1, 23)


@dataclass(frozen=True)
class Cluster:
    """What all members share. ``endpoint`` is the address and port that every client uses; ``sans`` are further names.

    ``arguments`` are by component, names without dashes in front. ``audit`` has days, files and mib (of each file).
    """

    endpoint: str
    name: str = "kubernetes"
    pod_subnet: str = ""
    service_subnet: str = "10.96.0.0/12"
    dns_domain: str = "cluster.local"
    image_repository: str = ""
    sans: Sequence[str] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    audit: Mapping[str, int] = field(default_factory=dict)
    kubelet: Mapping[str, Any] = field(default_factory=dict)
    proxy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """What one member has of its own. ``taints`` is None for those that kubeadm gives a member."""

    name: str
    address: str
    port: int = 6443
    taints: Sequence[Mapping[str, str]] | None = None
    kubelet_arguments: Mapping[str, Any] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    patches: str = ""


def api_arguments(version: versions.Version, audit: Mapping[str, int]) -> dict[str, str]:
    """Return the API server's arguments beside kubeadm's own (kubernetes.io, "kube-apiserver")."""
    given = {
        "audit-log-path": f"{AUDIT_DIRECTORY}/audit.log",
        "audit-log-maxage": str(audit.get("days", 30)),
        "audit-log-maxbackup": str(audit.get("files", 10)),
        "audit-log-maxsize": str(audit.get("mib", 100)),
        "audit-policy-file": f"{DIRECTORY}/audit-policy.yaml",
        "encryption-provider-config": f"{DIRECTORY}/encryption.yaml",
        "profiling": "false",
        "tls-min-version": "VersionTLS12",
    }
    if version.release >= POD_SECURITY:
        given["admission-control-config-file"] = f"{DIRECTORY}/admission.yaml"
    return given


def cluster_configuration(cluster: Cluster, version: versions.Version) -> dict[str, Any]:
    """Return kubeadm's ClusterConfiguration for kubeadm ``version``, which is the cluster's own. Raises NodeError.

    Sources: kubernetes.io, "kubeadm Configuration" (v1beta2), (v1beta3), (v1beta4).
    """
    unknown = sorted(set(cluster.arguments) - set(COMPONENTS))
    if unknown:
        raise NodeError(f"arguments of {', '.join(unknown)}: components are {', '.join(COMPONENTS)}")
    api = versions.api_version(version)
    own: dict[str, dict[str, str]] = {
        "apiServer": api_arguments(version, cluster.audit),
        "controllerManager": {"profiling": "false"},
        "scheduler": {"profiling": "false"},
    }
    parts: dict[str, dict[str, Any]] = {}
    for component in COMPONENTS:
        given = {
            **own[component],
            **{str(key): str(value) for key, value in cluster.arguments.get(component, {}).items()},
        }
        parts[component] = {"extraArgs": in_version(given, api)}
    parts["apiServer"]["certSANs"] = sorted(set(cluster.sans))
    parts["apiServer"]["extraVolumes"] = [
        {
            "name": "vllmd-apiserver",
            "hostPath": DIRECTORY,
            "mountPath": DIRECTORY,
            "readOnly": True,
            "pathType": "Directory",
        },
        {"name": "vllmd-audit", "hostPath": AUDIT_DIRECTORY, "mountPath": AUDIT_DIRECTORY, "pathType": "Directory"},
    ]
    networking = {"serviceSubnet": cluster.service_subnet, "dnsDomain": cluster.dns_domain}
    if cluster.pod_subnet:
        networking["podSubnet"] = cluster.pod_subnet
    document: dict[str, Any] = {
        "apiVersion": api,
        "kind": "ClusterConfiguration",
        "clusterName": cluster.name,
        "kubernetesVersion": str(version),
        "controlPlaneEndpoint": joining.endpoint(cluster.endpoint),
        "certificatesDir": "/etc/kubernetes/pki",
        "networking": networking,
        **parts,
    }
    if cluster.image_repository:
        document["imageRepository"] = cluster.image_repository
    return document


def initialization(
    cluster: Cluster, member: Member, version: versions.Version, *, token: str = "", certificate_key: str = ""
) -> list[dict[str, Any]]:
    """Return the documents for ``kubeadm init`` and its phases. Raises NodeError.

    ``token`` takes the place of the one that kubeadm would make and keep for a day; ``certificate_key`` is what
    ``upload-certs`` encrypts with.
    """
    api = versions.api_version(version)
    init: dict[str, Any] = {
        "apiVersion": api,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": member.address, "bindPort": member.port},
        "nodeRegistration": registration(member, api),
    }
    if token:
        init["bootstrapTokens"] = [
            {"token": joining.token(token), "ttl": "15m0s", "usages": ["signing", "authentication"]}
        ]
    if certificate_key:
        init["certificateKey"] = certificate_key
    if member.patches and versions.can_patch_kubelet(version):
        init["patches"] = {"directory": member.patches}
    documents = [init, cluster_configuration(cluster, version)]
    if cluster.kubelet:
        documents.append(
            {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **cluster.kubelet}
        )
    if cluster.proxy:
        documents.append(
            {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", **cluster.proxy}
        )
    return documents


def joining_member(
    endpoint: str, member: Member, version: versions.Version, *, token: str, pins: Sequence[str], certificate_key: str
) -> dict[str, Any]:
    """Return kubeadm's JoinConfiguration for a further member of the control plane. Raises NodeError."""
    join = joining.Join(
        endpoint=endpoint,
        token=token,
        pins=pins,
        name=member.name,
        arguments=joining.arguments(member.kubelet_arguments),
        ignored=joining.ignored(member.ignored),
        patches=member.patches,
    )
    document = joining.configuration(join, version)
    document["nodeRegistration"] = registration(member, document["apiVersion"])
    document["controlPlane"] = {
        "localAPIEndpoint": {"advertiseAddress": member.address, "bindPort": member.port},
        "certificateKey": certificate_key,
    }
    return document


def registration(member: Member, api: str) -> dict[str, Any]:
    """Return how the member's kubelet registers it. Raises NodeError."""
    found: dict[str, Any] = {
        "name": member.name,
        # A kubelet of that time takes a path, later ones an address.
        "criSocket": joining.SOCKET.removeprefix("unix://") if api.endswith("v1beta2") else joining.SOCKET,
    }
    if member.taints is not None:
        found["taints"] = [dict(taint) for taint in member.taints]
    ignored = joining.ignored(member.ignored)
    if ignored:
        found["ignorePreflightErrors"] = ignored
    given = joining.arguments(member.kubelet_arguments)
    if given:
        found["kubeletExtraArgs"] = in_version(given, api)
    return found


def in_version(given: Mapping[str, str], api: str) -> Any:
    """Return arguments as kubeadm's API writes them: a list since v1beta4, so that one may be given twice."""
    ordered = dict(sorted(given.items()))
    if api.endswith("v1beta4"):
        return [{"name": name, "value": value} for name, value in ordered.items()]
    return ordered
