# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Signatures over image manifests: ``manifest.sig`` beside ``manifest.json`` (docs/images.md has the format).

Signed are the exact bytes of the manifest. Ed25519 signs and verifies; ECDSA with P-256 and SHA-256 verifies only, for
keys in hardware that has no Ed25519. A key is known by its id, the SHA-256 of its public half as DER.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .image_manifest import MANIFEST_NAME, ImageError

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
except ImportError:
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True

SCHEMA_VERSION = 1
SIGNATURE_NAME = "manifest.sig"
ED25519 = "ed25519"
P256 = "ecdsa-p256-sha256"

_FIELDS = {"schema_version": int, "algorithm": str, "key_id": str, "signature": str}
_MAX_KEY_BYTES = 64 * 1024
_MAX_SIGNATURE_BYTES = 4096
_KEY_ID = re.compile(r"sha256:[0-9a-f]{64}")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


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
    """A key that signatures are accepted from; ``algorithm`` follows from its type."""

    key_id: str
    algorithm: str
    key: Any

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


def check(directory: Path, manifest: bytes, trusted: Mapping[str, PublicKey]) -> str:
    """Return the id of the trusted key that signed ``manifest``, the bytes of the manifest in ``directory``.

    Raises SignatureError when the signature is missing, damaged, by an unknown key, or over other bytes.
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
        content = _read(path, _MAX_SIGNATURE_BYTES)
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


def load_signing_key(path: Path) -> Signer:
    """Return the private Ed25519 key in the PEM file ``path``. Raises SignatureError, also when others may read it."""
    _need_cryptography()
    try:
        content = _read(path, _MAX_KEY_BYTES, secret=True)
        key = serialization.load_pem_private_key(content, password=None)
    except OSError as error:
        raise SignatureError(
            f"cannot read signing key {path}: {error.strerror or error}; correct the path, or make a key "
            f"(openssl genpkey -algorithm ed25519 -out {path})"
        ) from None
    except TypeError:
        raise SignatureError(
            f"signing key {path} is encrypted, and nobody is there to type its passphrase; "
            "give a key without one, readable for its owner only"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError(
            f"signing key {path} holds no private key in PEM form; make one with openssl genpkey -algorithm ed25519"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SignatureError(f"signing key {path} is no Ed25519 key; make one with openssl genpkey -algorithm ed25519")
    return Signer(key, _public_key(key.public_key(), str(path)))


def load_trusted_keys(entries: Sequence[str]) -> dict[str, PublicKey]:
    """Return the public keys of ``entries`` by their ids; an entry is PEM text or a file with it, one key or several.

    Raises SignatureError; an empty list is one, because nothing would be trusted then.
    """
    _need_cryptography()
    if not entries:
        raise SignatureError("trusted_keys is empty, so no image could be used; name a public key, or leave it out")
    keys: dict[str, PublicKey] = {}
    for number, entry in enumerate(entries, start=1):
        label = f"trusted key {number}"
        text = entry
        if "-----BEGIN" not in entry:
            label = f"trusted key {entry!r}"
            try:
                text = _read(Path(entry), _MAX_KEY_BYTES).decode("ascii")
            except OSError as error:
                raise SignatureError(f"cannot read {label}: {error.strerror or error}; correct the path") from None
            except ValueError:
                raise _no_public_key(label) from None
        blocks = list(_PEM.finditer(text))
        if not blocks or text.count("-----BEGIN") != len(blocks):
            raise _no_public_key(label)
        for block in blocks:
            key = _load_public(block, label)
            keys[key.key_id] = key
    return keys


def _load_public(block: re.Match[str], label: str) -> PublicKey:
    """Return the key of one PEM block. Raises SignatureError."""
    if block.group(1).endswith("PRIVATE KEY"):
        raise SignatureError(
            f"{label} is a private key, which must not leave the builder; give its public half (openssl pkey -pubout)"
        )
    try:
        return _public_key(serialization.load_pem_public_key(block.group(0).encode()), label)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _no_public_key(label) from None


def _no_public_key(label: str) -> SignatureError:
    return SignatureError(f"{label} holds no public key in PEM form; make one with openssl pkey -pubout")


def _public_key(key: Any, label: str) -> PublicKey:
    """Return ``key`` with its id. Raises SignatureError unless it is for Ed25519 or P-256."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = ED25519
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = P256
    else:
        raise SignatureError(f"{label} is neither an Ed25519 nor a P-256 key; signatures are made with one of these")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    return PublicKey("sha256:" + hashlib.sha256(der).hexdigest(), algorithm, key)


def _read(path: Path, max_bytes: int, secret: bool = False) -> bytes:
    """Return the content of a small regular file. Raises OSError; SignatureError for a secret that others may read.

    What is checked is what is read: permissions come from the open file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(f"no possible path ({error})") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if secret and status.st_mode & 0o077:
            raise SignatureError(
                f"signing key {path} has permissions {stat.S_IMODE(status.st_mode):04o}, so others can use it; "
                f"allowed: 0600 (chmod 0600 {path}); if others had access, make a new key"
            )
        if secret and status.st_uid not in (0, os.geteuid()):
            raise SignatureError(
                f"signing key {path} belongs to user id {status.st_uid}; allowed: root and the user who builds "
                f"(chown root {path})"
            )
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"more than {max_bytes} bytes")
    return content


def _need_cryptography() -> None:
    """Raise SignatureError when the library is not there."""
    if not HAS_CRYPTOGRAPHY:
        raise SignatureError(
            f"signatures need the Python package cryptography, which {sys.executable} lacks; install Debian's package "
            "python3-cryptography (apt-get install python3-cryptography), or use a Python that has it"
        )
