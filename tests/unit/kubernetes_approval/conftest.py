"""Requests as kubelets make them, and what is registered of their nodes."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.records import Identity, Record
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.requests import CLIENT, SERVING

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
MACHINE = "0123456789abcdef0123456789abcdef"
BOOTSTRAP = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]


class Key:
    """A key pair and its digest as it is registered."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        public = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.digest = f"sha256:{hashlib.sha256(public).hexdigest()}"


@pytest.fixture(scope="session")
def key() -> Key:
    return Key()


@pytest.fixture(scope="session")
def other_key() -> Key:
    return Key()


def request(
    key: Key,
    *,
    user: str = "system:node:gpu-1",
    signer: str = SERVING,
    groups: list[str] | None = None,
    common_name: str = "system:node:gpu-1",
    organizations: tuple[str, ...] = ("system:nodes",),
    names: tuple[str, ...] = (),
    addresses: tuple[str, ...] = (),
    others: tuple[x509.GeneralName, ...] = (),
    usages: tuple[str, ...] | None = None,
    created: str = "2030-01-01T12:00:00Z",
    **changes: Any,
) -> dict[str, Any]:
    """Return a CertificateSigningRequest as the API has it."""
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    alternative: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    alternative += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    alternative += others
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    pem = builder.sign(key.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    purpose = "client auth" if signer == CLIENT else "server auth"
    return {
        "metadata": {"name": "csr-1", "uid": "1", "creationTimestamp": created},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "username": user,
            "groups": groups or (BOOTSTRAP if user.startswith("system:bootstrap:") else ["system:nodes"]),
            "usages": list(usages or ("digital signature", "key encipherment", purpose)),
        },
        "status": {},
        **changes,
    }


def first(key: Key, **changes: Any) -> dict[str, Any]:
    """Return the first request of a node, by its bootstrap token."""
    return request(key, **{"user": "system:bootstrap:abcdef", "signer": CLIENT, **changes})


def serving(key: Key, **changes: Any) -> dict[str, Any]:
    """Return a request for a serving certificate, as the registered node makes it."""
    return request(key, **{"names": ("gpu-1",), "addresses": ("10.0.0.21",), **changes})


def registered(**changes: Any) -> Record:
    """Return the record of node gpu-1."""
    identity = Identity(
        "gpu-1",
        MACHINE,
        ("10.0.0.21",),
        ("gpu-1",),
        "abcdef",
        "2030-01-01T12:15:00Z",
    )
    values = {name: changes.pop(name) for name in list(changes) if name in Identity.__dataclass_fields__}
    return Record("gpu-1", Identity(**{**identity.__dict__, **values}), **changes)
