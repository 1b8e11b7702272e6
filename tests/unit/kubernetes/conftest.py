"""A CA for tests, and what kubeadm would have written of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A cluster's CA, and its pin as kubernetes.io says to compute it."""

    pem: str
    pin: str


def make_authority(kind: str = "rsa", name: str = "kubernetes") -> Authority:
    key: Any
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elif kind == "ec":
        key = ec.generate_private_key(ec.SECP384R1())
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None if kind == "ed25519" else hashes.SHA256())
    )
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return Authority(pem, f"sha256:{hashlib.sha256(der).hexdigest()}")


@pytest.fixture(scope="session")
def authority() -> Authority:
    return make_authority()


@pytest.fixture(scope="session")
def other_authority() -> Authority:
    return make_authority("ec")


def kubelet_conf(root: Path, authority: Authority, server: str = "https://10.0.0.10:6443") -> Path:
    """Write what ``kubeadm join`` leaves for the kubelet."""
    path = root / "etc/kubernetes/kubelet.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = base64.b64encode(authority.pem.encode()).decode()
    path.write_text(
        "apiVersion: v1\nclusters:\n- cluster:\n"
        f"    certificate-authority-data: {data}\n    server: {server}\n"
        "  name: default-cluster\ncurrent-context: default-context\nkind: Config\n"
    )
    return path


@pytest.fixture
def joined() -> Callable[..., Path]:
    """A function that makes the host at a root a node."""
    return kubelet_conf
