# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a CertificateSigningRequest asks for, read with cryptography's parser."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import NameOID

    _HAS_CRYPTOGRAPHY = True
except ImportError:
    _HAS_CRYPTOGRAPHY = False  # need_cryptography says so, in words

#: The two signers of kubelets' certificates (kubernetes.io, "Certificates and Certificate Signing Requests").
CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING = "kubernetes.io/kubelet-serving"
NODE_USER, TOKEN_USER = "system:node:", "system:bootstrap:"
NODE_GROUP, TOKEN_GROUP = "system:nodes", "system:bootstrappers"


class UnreadableError(ValueError):
    """Why what was asked for cannot be read."""


def need_cryptography() -> None:
    """Check that requests can be read here. Raises UnreadableError."""
    if not _HAS_CRYPTOGRAPHY:
        raise UnreadableError("Python's cryptography is not installed; install package python3-cryptography")


@dataclass(frozen=True)
class Asked:
    """What stands in the request itself. ``other`` are alternative names that are neither DNS names nor addresses.

    ``key`` is ``sha256:`` and the digest of the public key (SubjectPublicKeyInfo, DER), which has signed the request.
    """

    common_name: str
    organizations: tuple[str, ...]
    has_other_subject: bool
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    other: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Request:
    """A request as the API has it. ``created`` is RFC 3339; ``is_decided`` when it is approved or denied already."""

    name: str
    signer: str
    user: str
    groups: tuple[str, ...]
    usages: tuple[str, ...]
    created: str
    pem: str
    is_decided: bool

    @property
    def token_id(self) -> str:
        """Return the id of the bootstrap token that asked, empty for others."""
        return self.user.removeprefix(TOKEN_USER) if self.user.startswith(TOKEN_USER) else ""

    @property
    def is_ours(self) -> bool:
        """Return whether a node, or what will be one, asks a signer of nodes. Nothing else is ever touched."""
        return self.signer in (CLIENT, SERVING) and self.user.startswith((NODE_USER, TOKEN_USER))


def read(resource: Mapping[str, Any]) -> Request:
    """Return the request that a CertificateSigningRequest (certificates.k8s.io/v1) is."""
    spec, status = resource["spec"], resource.get("status") or {}
    conditions = {each.get("type") for each in status.get("conditions") or []}
    return Request(
        name=str(resource["metadata"]["name"]),
        signer=str(spec.get("signerName") or ""),
        user=str(spec.get("username") or ""),
        groups=tuple(spec.get("groups") or ()),
        usages=tuple(spec.get("usages") or ()),
        created=str(resource["metadata"].get("creationTimestamp") or ""),
        pem=str(spec.get("request") or ""),
        is_decided=bool(conditions & {"Approved", "Denied"}),
    )


def asked(request: Request) -> Asked:
    """Return what stands in the request. Raises UnreadableError."""
    try:
        found = x509.load_pem_x509_csr(base64.b64decode(request.pem, validate=True))
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        is_signed = found.is_signature_valid
        subject = list(found.subject)
        alternative = _alternative(found)
    except (ValueError, TypeError, binascii.Error, InvalidSignature, UnsupportedAlgorithm) as error:
        raise UnreadableError(" ".join(str(error).split())[:200] or "no reason given") from None
    if not is_signed:
        raise UnreadableError("it is not signed with the key that it names")
    common = [str(each.value) for each in subject if each.oid == NameOID.COMMON_NAME]
    organizations = tuple(str(each.value) for each in subject if each.oid == NameOID.ORGANIZATION_NAME)
    return Asked(
        common_name=common[0] if len(common) == 1 else "",
        organizations=organizations,
        has_other_subject=len(subject) != len(common) + len(organizations),
        names=tuple(sorted({each.value.lower() for each in alternative if isinstance(each, x509.DNSName)})),
        addresses=tuple(sorted({str(each.value) for each in alternative if isinstance(each, x509.IPAddress)})),
        other=tuple(str(each.value) for each in alternative if not isinstance(each, x509.DNSName | x509.IPAddress)),
        key=f"sha256:{hashlib.sha256(key).hexdigest()}",
    )


def _alternative(found: Any) -> list[Any]:
    try:
        return list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
