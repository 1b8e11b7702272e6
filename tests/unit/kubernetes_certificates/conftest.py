"""A host of a control plane as kubeadm leaves it: authorities, what they issued, kubeconfigs, static pods."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import (
    certificates,
    kubeconfigs,
    layout,
    rotation,
    store,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def make_authority(name: str = "kubernetes", days: float = 3650) -> certificates.Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificates.Issuer(certificate, key)


def make_leaf(
    issuer: certificates.Issuer, name: str, days: float = 335, names: tuple[str, ...] = ()
) -> tuple[x509.Certificate, Any]:
    """A certificate that was issued 30 days ago and has `days` left."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
    return builder.sign(issuer.key, hashes.SHA256()), key


def kubeconfig(issuer: certificates.Issuer, certificate: x509.Certificate, key: Any) -> bytes:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {"server": "https://10.0.0.10:6443"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "me@kubernetes", "context": {"cluster": "kubernetes", "user": "me"}}],
        "current-context": "me@kubernetes",
    }
    document = kubeconfigs.with_authorities(document, certificates.pem([issuer.certificate]))
    document = kubeconfigs.with_client(document, certificates.pem([certificate]), certificates.key_pem(key))
    return kubeconfigs.dump(document)


@dataclass(frozen=True)
class Member:
    """A host of the control plane."""

    root: Path
    authorities: dict[str, certificates.Issuer]

    def path(self, name: str) -> Path:
        return self.root / layout.KUBERNETES / name

    def leaf(self, name: str) -> x509.Certificate:
        return certificates.parse(self.path(f"pki/{name}.crt").read_bytes(), name)[0]

    def client(self, name: str) -> x509.Certificate:
        found = kubeconfigs.client(kubeconfigs.load(self.path(name).read_bytes(), name), name)
        assert isinstance(found, bytes)
        return certificates.parse(found, name)[0]

    def believed(self, name: str) -> list[str]:
        """The pins of the authorities that a kubeconfig believes, in order."""
        found = kubeconfigs.authorities(kubeconfigs.load(self.path(name).read_bytes(), name), name)
        assert isinstance(found, bytes)
        return [certificates.pin(each) for each in certificates.parse(found, name)]

    def signing_file(self) -> str:
        pod = yaml.safe_load(self.path("manifests/kube-controller-manager.yaml").read_text())
        arguments = dict(each[2:].split("=", 1) for each in pod["spec"]["containers"][0]["command"][1:])
        return str(arguments["cluster-signing-cert-file"])

    def begin(self, authority: str = "kubernetes") -> certificates.Issuer:
        """Begin a rotation; return the new authority."""
        old = self.authorities[authority]
        new = certificates.successor(old.certificate, NOW)
        pins = (certificates.pin(old.certificate), certificates.pin(new.certificate))
        pairs = [
            store.Pair(certificates.pem([each.certificate]), certificates.key_pem(each.key)) for each in (old, new)
        ]
        store.begin(self.root / layout.ROTATION, "member", rotation.Record(authority, "old", *pins, 0.0), *pairs)
        return new


@pytest.fixture
def member(tmp_path: Path) -> Member:
    pki = tmp_path / layout.PKI
    (pki / "etcd").mkdir(parents=True)
    (tmp_path / layout.MANIFESTS).mkdir()
    issuers = {name: make_authority(name) for name in layout.AUTHORITIES}
    for name, authority in layout.AUTHORITIES.items():
        store.write_pair(pki / authority.stem, issuers[name].certificate, issuers[name].key)
        for leaf in authority.leaves:
            store.write_pair(pki / leaf, *make_leaf(issuers[name], leaf, names=("kubernetes", "control")))
        for conf in authority.kubeconfigs:
            path = tmp_path / layout.KUBERNETES / conf
            path.write_bytes(kubeconfig(issuers[name], *make_leaf(issuers[name], conf)))
            path.chmod(0o600)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"creationTimestamp": None, "name": "kube-controller-manager"},
        "spec": {
            "containers": [
                {
                    "command": [
                        "kube-controller-manager",
                        "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
                        "--root-ca-file=/etc/kubernetes/pki/ca.crt",
                    ]
                }
            ]
        },
    }
    (tmp_path / layout.MANIFESTS / "kube-controller-manager.yaml").write_text(yaml.safe_dump(pod))
    return Member(tmp_path, issuers)


def encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
