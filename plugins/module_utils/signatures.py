# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Signatures over image manifests: ``manifest.sig`` beside ``manifest.json`` (docs/images.md has the format).

Signed are the exact bytes of the manifest. Ed25519 signs and verifies; ECDSA with P-256 and SHA-256 verifies only, for
keys in hardware that has no Ed25519. A key is known by its id, the SHA-256 of its public half as DER.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .image_manifest import MANIFEST_NAME, ImageError
from .regular_files import read_regular

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True

SCHEMA_VERSION = 1
SIGNATURE_NAME = "manifest.sig"
ED25519 = "ed25519"
P256 = "ecdsa-p256-sha256"

_FIELDS = {"schema_version": int, "algorithm": str, "key_id": str, "signature": str}
_MAX_SIGNATURE_BYTES = 4096
_KEY_ID = re.compile(r"sha256:[0-9a-f]{64}")


class SignatureError(ImageError):
    """A key or a signature is not as it should be; the message is one line: what, where, why, what to do."""


@dataclass(frozen=True)
class Signature:
    """What a ``manifest.sig`` says: ``value`` is the raw Ed25519 signature (64 bytes) or the DER of an ECDSA one."""

    algorithm: str
    key_id: str
    value: bytes


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are accepted from, between two moments; ``algorithm`` follows from its type."""

    key_id: str
    algorithm: str
    key: Any
    not_before: datetime | None = None
    not_after: datetime | None = None

    def why_not(self, now: datetime) -> str:
        """Return why the key does not hold at the moment ``now``, or an empty string."""
        if self.not_before and now < self.not_before:
            return f"whose time begins on {self.not_before:%Y-%m-%d %H:%M:%S} UTC"
        if self.not_after and now > self.not_after:
            return f"whose time ended on {self.not_after:%Y-%m-%d %H:%M:%S} UTC"
        return ""

    def accepts(self, message: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` over ``message`` was made with this key's private half."""
        try:
            if self.algorithm == ED25519:
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private Ed25519 key, ready to sign; `public` is its other half."""

    key: Any
    public: PublicKey

    def sign(self, message: bytes) -> bytes:
        """Return the content of ``manifest.sig`` for ``message``. The same message gives the same signature."""
        return dump(Signature(ED25519, self.public.key_id, self.key.sign(message)))


def dump(signature: Signature) -> bytes:
    """Return the one way to write ``signature``; `parse` accepts no other."""
    fields = {
        "schema_version": SCHEMA_VERSION,
        "algorithm": signature.algorithm,
        "key_id": signature.key_id,
        "signature": base64.b64encode(signature.value).decode(),
    }
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()


def parse(content: bytes, where: Path) -> Signature:
    """Return the signature that the file ``where`` holds. Raises SignatureError."""
    try:
        fields = json.loads(content.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise _broken(where, f"is no JSON in ASCII ({error})") from None
    wrong = _wrong_fields(fields)
    if wrong:
        raise _broken(where, f"has {wrong}")
    try:
        value = base64.b64decode(fields["signature"], validate=True)
    except (binascii.Error, ValueError):
        raise _broken(where, "has a field signature that is no base64") from None
    signature = Signature(fields["algorithm"], fields["key_id"], value)
    # One form only: every changed byte is then a refused signature, not just those that carry meaning.
    if dump(signature) != content:
        raise _broken(where, "is not written in the one form that is allowed (docs/images.md)")
    return signature


def _wrong_fields(fields: Any) -> str | None:
    """Return what is wrong with a signature's fields, or None."""
    if not isinstance(fields, dict):
        return "no JSON object"
    if set(fields) != set(_FIELDS):
        return f"not exactly the fields {', '.join(sorted(_FIELDS))}"
    for name, kind in _FIELDS.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            return f"a field {name} that is no {kind.__name__}"
    if fields["schema_version"] != SCHEMA_VERSION:
        return f"a field schema_version other than {SCHEMA_VERSION}"
    if fields["algorithm"] not in (ED25519, P256):
        return f"an unknown algorithm {fields['algorithm']!r}; allowed: {ED25519}, {P256}"
    if not _KEY_ID.fullmatch(fields["key_id"]):
        return "a field key_id that is not sha256: and 64 hexadecimal digits"
    return None


def _broken(where: Path, what: str) -> SignatureError:
    return SignatureError(f"signature {where} {what}; restore the file, or sign the image again on the builder")


def check(directory: Path, manifest: bytes, trusted: Mapping[str, PublicKey], now: datetime | None = None) -> str:
    """Return the id of the trusted key that signed ``manifest``, the bytes of the manifest in ``directory``.

    Raises SignatureError when the signature is missing, damaged, by an unknown key, by one that does not hold ``now``
    (the clock's, by default), or over other bytes.
    """
    path = directory / SIGNATURE_NAME
    signature = read(directory)
    if signature is None:
        raise SignatureError(
            f"image {directory} is not signed ({SIGNATURE_NAME} is missing), and trusted keys are asked for; "
            "sign it on the builder (signing_key of module image_build)"
        )
    key = trusted.get(signature.key_id)
    if key is None:
        known = ", ".join(sorted(trusted))
        raise SignatureError(
            f"signature {path} is by key {signature.key_id}, which is not trusted (trusted: {known}); "
            "do not use the image, or add that key's public half to the trusted keys"
        )
    if key.algorithm != signature.algorithm:
        raise _broken(path, f"says algorithm {signature.algorithm}, but key {key.key_id} is for {key.algorithm}")
    expired = key.why_not(now or datetime.now(UTC))
    if expired:
        raise SignatureError(
            f"signature {path} is by key {key.key_id}, {expired}; sign the image with a key that holds (signing_key of "
            "module image_build), or correct the key's times or this host's clock"
        )
    if not key.accepts(manifest, signature.value):
        raise SignatureError(
            f"signature {path} does not fit {directory / MANIFEST_NAME} (key {key.key_id}): one of the two was "
            f"changed after signing; remove {directory} and build again"
        )
    return key.key_id


def read(directory: Path) -> Signature | None:
    """Return the signature in ``directory``, or None when there is none. Raises SignatureError."""
    path = directory / SIGNATURE_NAME
    try:
        content = read_regular(path, _MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignatureError(f"cannot read signature {path}: {error.strerror or error}") from None
    return parse(content, path)


def why_unsigned(directory: Path, manifest: bytes, signer: Signer) -> str:
    """Return why ``signer`` has to sign the manifest in ``directory``, or an empty string when it did already.

    Raises SignatureError for a damaged signature, and for one by this very key that does not fit: signing that anew
    would vouch for a manifest that somebody changed.
    """
    signature = read(directory)
    if signature is None:
        return "the image is not signed"
    if signature.key_id != signer.public.key_id:
        return f"the image is signed by another key ({signature.key_id})"
    check(directory, manifest, {signer.public.key_id: signer.public})
    return ""


def need_cryptography() -> None:
    """Raise SignatureError when the library is not there."""
    if not HAS_CRYPTOGRAPHY:
        raise SignatureError(
            f"signatures need the Python package cryptography, which {sys.executable} lacks; install Debian's package "
            "python3-cryptography (apt-get install python3-cryptography), or use a Python that has it"
        )
