# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where kubeadm keeps certificates, and who reads them when.

Sources: kubernetes.io, "PKI certificates and requirements", "Certificate Management with kubeadm"; what components load
again by themselves stands in docs/certificates.md.
"""

from __future__ import annotations

from dataclasses import dataclass

KUBERNETES = "etc/kubernetes"
PKI = f"{KUBERNETES}/pki"
MANIFESTS = f"{KUBERNETES}/manifests"
#: Old and new authority and how far this host is, while one is rotated; root alone may read it.
ROTATION = f"{PKI}/rotation"
KUBELET_CONF = f"{KUBERNETES}/kubelet.conf"
BOOTSTRAP_CONF = f"{KUBERNETES}/bootstrap-kubelet.conf"
KUBELET_PKI = "var/lib/kubelet/pki"
KUBELET_CLIENT = f"{KUBELET_PKI}/kubelet-client-current.pem"
KUBELET_SERVER = f"{KUBELET_PKI}/kubelet-server-current.pem"
KUBELET_CONFIG = "var/lib/kubelet/config.yaml"
#: Copies of admin.conf, where kubeadm tells people to put one.
COPIES = ("root/.kube/config",)


@dataclass(frozen=True)
class Authority:
    """One of the three that kubeadm makes: its file below pki without suffix, and those of what it issues."""

    name: str
    stem: str
    leaves: tuple[str, ...]
    kubeconfigs: tuple[str, ...] = ()


AUTHORITIES = {
    "kubernetes": Authority(
        "kubernetes",
        "ca",
        ("apiserver", "apiserver-kubelet-client"),
        ("admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf"),
    ),
    "etcd": Authority(
        "etcd", "etcd/ca", ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client")
    ),
    "front-proxy": Authority("front-proxy", "front-proxy-ca", ("front-proxy-client",)),
}


def renewal_name(relative: str) -> str:
    """Return what ``kubeadm certs renew`` calls a file below pki or a kubeconfig; empty for what it does not renew."""
    for authority in AUTHORITIES.values():
        if relative in authority.kubeconfigs:
            return relative
        if relative.removesuffix(".crt") in authority.leaves and relative.endswith(".crt"):
            return relative.removesuffix(".crt").replace("/", "-")
    return ""


#: Arguments of components that name a file which is read at their start only. Everything else that names certificates
#: (tls-*, client-ca-file, kubelet-client-*, etcd-certfile, proxy-client-*, cluster-signing-*, cert-file) is read again.
#: The last three of the API server's are of role runtime_controller, which may have been killed before its restart.
READ_ONCE = {
    "etcd": ("trusted-ca-file", "peer-trusted-ca-file"),
    "kube-apiserver": (
        "etcd-cafile",
        "kubelet-certificate-authority",
        "encryption-provider-config",
        "audit-policy-file",
        "admission-control-config-file",
    ),
    "kube-controller-manager": ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig", "root-ca-file"),
    "kube-scheduler": ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"),
}
#: The order in which they start again: what others stand on comes first.
COMPONENTS = tuple(READ_ONCE)
