# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read keys for image signatures: the builder's private one, and the public ones that hosts trust, each for a time."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from .regular_files import read_regular
from .signatures import ED25519, P256, PublicKey, SignatureError, Signer, need_cryptography

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
except ImportError:
    pass  # need_cryptography says so, in words

_MAX_KEY_BYTES = 64 * 1024
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_ENTRY = {"key", "not_before", "not_after"}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")


def load_signing_key(path: Path) -> Signer:
    """Return the private Ed25519 key in the PEM file ``path``. Raises SignatureError, also when others may read it."""
    need_cryptography()
    try:
        content = read_regular(path, _MAX_KEY_BYTES, lambda status: _check_secret(path, status))
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


def load_trusted_keys(entries: Sequence[object]) -> dict[str, PublicKey]:
    """Return the public keys of ``entries`` by their ids.

    An entry is PEM text or a file with it, one key or several, or ``{key: <that>, not_before: ..., not_after: ...}``.
    Raises SignatureError; an empty list is one, because nothing would be trusted then.
    """
    need_cryptography()
    if not entries:
        raise SignatureError("trusted_keys is empty, so no image could be used; name a public key, or leave it out")
    keys: dict[str, PublicKey] = {}
    for number, entry in enumerate(entries, start=1):
        text, not_before, not_after = _entry(entry, number)
        for key in _keys_of(text, number):
            timed = replace(key, not_before=not_before, not_after=not_after)
            known = keys.setdefault(key.key_id, timed)
            if (known.not_before, known.not_after) != (not_before, not_after):
                raise SignatureError(
                    f"trusted key {number} ({key.key_id}) is listed twice with different times; keep the one that holds"
                )
    return keys


def _entry(entry: object, number: int) -> tuple[str, datetime | None, datetime | None]:
    """Return the text of an entry and when its keys hold. Raises SignatureError."""
    if isinstance(entry, str):
        return entry, None, None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or set(entry) - _ENTRY:
        raise SignatureError(
            f"trusted key {number} is neither PEM text, a file's path nor {{key, not_before, not_after}}; correct it"
        )
    not_before = _moment(entry.get("not_before"), f"trusted key {number}, not_before", time.min)
    not_after = _moment(entry.get("not_after"), f"trusted key {number}, not_after", time.max)
    if not_before and not_after and not_before > not_after:
        raise SignatureError(f"trusted key {number}: not_before is later than not_after, so it never holds; correct it")
    return entry["key"], not_before, not_after


def _moment(value: object, label: str, of_day: time) -> datetime | None:
    """Return the moment that ``value`` names; of a day alone, its ``of_day`` in UTC. Raises SignatureError."""
    if value is None:
        return None
    try:
        if not isinstance(value, str) or not _MOMENT.fullmatch(value):
            raise ValueError
        if "T" in value:
            return datetime.fromisoformat(value.removesuffix("Z")).replace(tzinfo=UTC)
        return datetime.combine(date.fromisoformat(value), of_day, tzinfo=UTC)
    except ValueError:
        raise SignatureError(
            f"{label}: found {value!r}; allowed: a day (2027-12-31) or a moment in UTC (2027-12-31T12:00:00Z)"
        ) from None


def _keys_of(entry: str, number: int) -> list[PublicKey]:
    """Return the keys in PEM text, or in the file that ``entry`` names. Raises SignatureError."""
    label, text = f"trusted key {number}", entry
    if "-----BEGIN" not in entry:
        label = f"trusted key {entry!r}"
        try:
            text = read_regular(Path(entry), _MAX_KEY_BYTES).decode("ascii")
        except OSError as error:
            raise SignatureError(f"cannot read {label}: {error.strerror or error}; correct the path") from None
        except ValueError:
            raise _no_public_key(label) from None
    blocks = list(_PEM.finditer(text))
    if not blocks or text.count("-----BEGIN") != len(blocks):
        raise _no_public_key(label)
    return [_load_public(block, label) for block in blocks]


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


def _check_secret(path: Path, status: os.stat_result) -> None:
    """Raise SignatureError when others than its owner and root may use the key in the open file."""
    if status.st_mode & 0o077:
        raise SignatureError(
            f"signing key {path} has permissions {stat.S_IMODE(status.st_mode):04o}, so others can use it; "
            f"allowed: 0600 (chmod 0600 {path}); if others had access, make a new key"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise SignatureError(
            f"signing key {path} belongs to user id {status.st_uid}; allowed: root and the user who builds "
            f"(chown root {path})"
        )
