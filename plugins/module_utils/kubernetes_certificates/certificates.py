# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""X.509 certificates: read, judge who issued them, issue the same again.

Runs with cryptography 38 (Debian 12) and newer.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ..kubernetes.errors import NodeError

with suppress(ImportError):  # libraries.missing() says so in words
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.x509.oid import NameOID

#: kubeadm's own lifetimes (kubernetes.io, "Certificate Management with kubeadm").
LEAF_DAYS, AUTHORITY_DAYS = 365, 3650
#: Clocks of two hosts are never the same; kubeadm gives the same time.
_BACKDATE = timedelta(minutes=5)
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_STAMP = re.compile(r"-[0-9]{8}T[0-9]{6}Z$")


@dataclass(frozen=True)
class Issuer:
    """An authority with its key."""

    certificate: x509.Certificate
    key: Any


def parse(pem: bytes, what: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM text, in order; other blocks in it are passed over. Raises NodeError."""
    blocks = _BLOCK.findall(pem)
    if not blocks:
        raise NodeError(f"{what}: there is no PEM certificate in it")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError:
        raise NodeError(f"{what}: a certificate in it cannot be read; it is no PEM of an X.509 certificate") from None


def parse_key(pem: bytes, what: str) -> Any:
    """Return a private key. Raises NodeError."""
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (TypeError, ValueError):
        raise NodeError(f"{what}: cannot be read; it is no PEM of a private key without a passphrase") from None


def issuer(certificate_pem: bytes, key_pem: bytes, what: str) -> Issuer:
    """Return the authority of the first certificate, whose key it is. Raises NodeError."""
    found = Issuer(parse(certificate_pem, what)[0], parse_key(key_pem, f"the key of {what}"))
    if public_bytes(found.certificate) != _public_bytes(found.key.public_key()):
        raise NodeError(f"{what}: certificate and key do not belong together; restore both from the same backup")
    return found


def pem(certificates: list[x509.Certificate]) -> bytes:
    """Return certificates as one PEM text."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def key_pem(key: Any) -> bytes:
    """Return a private key as kubeadm writes it: without a passphrase, in the traditional form."""
    form = serialization.PrivateFormat
    style = form.PKCS8 if isinstance(key, ed25519.Ed25519PrivateKey) else form.TraditionalOpenSSL
    plain: bytes = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption())
    return plain


def public_bytes(certificate: x509.Certificate) -> bytes:
    """Return a certificate's public key in DER."""
    return _public_bytes(certificate.public_key())


def pin(certificate: x509.Certificate) -> str:
    """Return the pin of a certificate, as module_utils.kubernetes.pins has it."""
    return f"sha256:{hashlib.sha256(public_bytes(certificate)).hexdigest()}"


def not_before(certificate: x509.Certificate) -> datetime:
    """Return from when it counts, with a time zone."""
    found = getattr(certificate, "not_valid_before_utc", None)
    return found if found is not None else certificate.not_valid_before.replace(tzinfo=UTC)


def not_after(certificate: x509.Certificate) -> datetime:
    """Return until when it counts, with a time zone."""
    found = getattr(certificate, "not_valid_after_utc", None)
    return found if found is not None else certificate.not_valid_after.replace(tzinfo=UTC)


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether it may issue others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether the authority's key signed the certificate."""
    if certificate.issuer != authority.subject:
        return False
    key, algorithm = authority.public_key(), certificate.signature_hash_algorithm
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def reissue(old: x509.Certificate, by: Issuer, now: datetime, days: float = LEAF_DAYS) -> tuple[x509.Certificate, Any]:
    """Return a certificate for the same subject, names and uses, and its new key of the same kind.

    It lives for ``days``, at most as long as the authority.
    """
    key = _new_key(old.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - _BACKDATE, not_before(by.certificate)))
        .not_valid_after(min(now + timedelta(days=days), not_after(by.certificate)))
    )
    for extension in old.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier | x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(_authority_key(by.certificate), critical=False)
    return builder.sign(by.key, _algorithm(by.key)), key


def client(name: str, by: Issuer, now: datetime, minutes: float) -> tuple[x509.Certificate, Any]:
    """Return a short-lived client certificate for user ``name``, which is in no group, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    usages = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(minutes=minutes))
        .add_extension(usages, critical=False)
        .add_extension(_authority_key(by.certificate), critical=False)
        .sign(by.key, _algorithm(by.key))
    )
    return certificate, key


def successor(old: x509.Certificate, now: datetime) -> Issuer:
    """Return a new authority of the same kind that takes the old one's place.

    Its name has the time in it: of two authorities with one name, a client that looks by name may take the wrong one.
    """
    key = _new_key(old.public_key())
    subject = x509.Name([_stamped(attribute, now) for attribute in old.subject])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension in old.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier | x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return Issuer(builder.sign(key, _algorithm(key)), key)


def _stamped(attribute: x509.NameAttribute[Any], now: datetime) -> x509.NameAttribute[Any]:
    if attribute.oid != NameOID.COMMON_NAME:
        return attribute
    return x509.NameAttribute(NameOID.COMMON_NAME, f"{_STAMP.sub('', str(attribute.value))}-{now:%Y%m%dT%H%M%SZ}")


def _authority_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def _new_key(like: Any) -> Any:
    if isinstance(like, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(like.curve)
    if isinstance(like, ed25519.Ed25519PublicKey):
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=like.key_size)


def _algorithm(key: Any) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _public_bytes(key: Any) -> bytes:
    der: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der
