# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bootstrap tokens as Kubernetes keeps them (kubernetes.io, "Authenticating with Bootstrap Tokens")."""

from __future__ import annotations

import re
import secrets
import string
from datetime import UTC, datetime
from typing import Any

from .errors import NodeError

NAMESPACE = "kube-system"
#: The group that kubeadm allows to ask for a node's certificate.
GROUP = "system:bootstrappers:kubeadm:default-node-token"
_ALPHABET = string.ascii_lowercase + string.digits
_ID = re.compile(r"[a-z0-9]{6}")


def generate() -> str:
    """Return a new token, 6 and 16 characters of a-z and 0-9: 83 bits that nobody guesses, after an id."""
    return ".".join("".join(secrets.choice(_ALPHABET) for _each in range(length)) for length in (6, 16))


def token_id(given: str) -> str:
    """Return the id of a token, which is no secret. Raises NodeError."""
    if not _ID.fullmatch(given):
        raise NodeError(f"token id {given[:20]!r}: write 6 characters of a-z and 0-9")
    return given


def secret_name(identity: str) -> str:
    """Return the name of the Secret that holds the token."""
    return f"bootstrap-token-{identity}"


def secret(token: str, description: str, expires: datetime) -> dict[str, Any]:
    """Return the Secret of a token that nodes join with until ``expires`` (with a time zone)."""
    identity, _dot, rest = token.partition(".")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(identity), "namespace": NAMESPACE},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": identity,
            "token-secret": rest,
            "description": description,
            "expiration": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": GROUP,
        },
    }
