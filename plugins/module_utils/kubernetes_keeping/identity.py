# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whose cluster a member and a snapshot are of, and whether its encrypted objects could be read.

A cluster is known by what only its own control plane has: the keys of its authorities and of its service accounts. One
in common is enough, so that a cluster whose authorities were exchanged meanwhile is still the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kubernetes import pins
from ..kubernetes.errors import NodeError
from .errors import KeepingError
from .member import PKI, arguments, manifest_of

_SECRET = re.compile(r"\bsecret\"?:\s*[\"']?([A-Za-z0-9+/=]{16,})")


@dataclass(frozen=True)
class Identity:
    """Marks of a cluster, and fingerprints of the keys that its objects are encrypted with, the writing key first."""

    marks: tuple[str, ...]
    encryption: tuple[str, ...]


def of_host(root: Path = Path("/"), aside: Path | None = None) -> Identity:
    """Return the identity of the member's cluster. Raises KeepingError, OSError."""
    marks = []
    for name in ("ca.crt", "etcd/ca.crt"):
        path = root / PKI / name
        try:
            marks += [f"{name} {pin}" for pin in pins.of_pem(path.read_text(encoding="ascii", errors="replace"))]
        except FileNotFoundError:
            continue
        except NodeError as error:
            raise KeepingError(f"{path}: {error}") from None
    path = root / PKI / "sa.pub"
    if path.is_file():
        marks.append(f"sa.pub sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    if not marks:
        raise KeepingError(
            f"{root / PKI} has no ca.crt and no sa.pub: nothing says whose cluster this is; put the control plane's "
            "keys back first"
        )
    return Identity(tuple(sorted(marks)), encryption_keys(root, aside))


def encryption_keys(root: Path, aside: Path | None = None) -> tuple[str, ...]:
    """Return the fingerprints of the keys in the API server's encryption configuration; empty without one."""
    try:
        given = arguments(manifest_of(root, "kube-apiserver", aside))
    except KeepingError:
        return ()
    name = given.get("encryption-provider-config", "")
    path = root / name.lstrip("/")
    if not name or not path.is_file():
        return ()
    return fingerprints(path.read_text(encoding="utf-8"))


def fingerprints(configuration: str) -> tuple[str, ...]:
    """Return a fingerprint of each key of an EncryptionConfiguration, in its order; the first one writes.

    Keys are random bytes, so that a digest tells nothing of them.
    """
    found = (hashlib.sha256(secret.encode()).hexdigest()[:16] for secret in _SECRET.findall(configuration))
    return tuple(dict.fromkeys(found))


def difference(here: Identity, marks: Sequence[str], encryption: Sequence[str]) -> str:
    """Return why a snapshot with these marks and keys cannot be this cluster's, as a sentence; empty when it can."""
    if not set(here.marks) & set(marks):
        return (
            "it is a snapshot of another cluster: neither its authorities' keys nor its service accounts' key are "
            "those in /etc/kubernetes/pki; take a snapshot of this cluster, or put the keys of that one there first"
        )
    lost = [key for key in encryption if key not in here.encryption]
    if lost:
        return (
            f"its objects are encrypted with key {lost[0]} (fingerprint), which the API server's encryption "
            "configuration does not have; add that key there first, or its Secrets could not be read"
        )
    return ""
