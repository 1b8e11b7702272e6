# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Kubeconfigs: the certificates in them, and the same kubeconfig with others."""

from __future__ import annotations

import base64
import binascii
import copy
from contextlib import suppress
from typing import Any

from ..kubernetes.errors import NodeError

with suppress(ImportError):  # libraries.missing() says so in words
    import yaml


def load(text: bytes, what: str) -> dict[str, Any]:
    """Return a kubeconfig that has a current context with a cluster and a user. Raises NodeError."""
    try:
        document = yaml.safe_load(text)
        if isinstance(document, dict) and _cluster(document) is not None and _user(document) is not None:
            return document
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, StopIteration):
        pass
    raise NodeError(f"{what}: it is no kubeconfig whose current context has a cluster and a user")


def dump(document: dict[str, Any]) -> bytes:
    """Return the kubeconfig as text, in the order in which kubectl and kubeadm write it."""
    return yaml.safe_dump(document, sort_keys=True, width=float("inf")).encode()


def authorities(document: dict[str, Any], what: str) -> bytes | str:
    """Return the PEM of the authorities that it believes, or the path of their file. Raises NodeError."""
    return _data_or_path(_cluster(document), "certificate-authority", what)


def client(document: dict[str, Any], what: str) -> bytes | str:
    """Return the PEM of its client certificate, or the path of its file; empty without one. Raises NodeError."""
    return _data_or_path(_user(document), "client-certificate", what)


def server(document: dict[str, Any]) -> str:
    """Return the API server's URL."""
    return str(_cluster(document).get("server", ""))


def with_authorities(document: dict[str, Any], pem: bytes) -> dict[str, Any]:
    """Return the kubeconfig with other authorities in it; one that names a file of them stays as it is."""
    changed = copy.deepcopy(document)
    cluster = _cluster(changed)
    if "certificate-authority" not in cluster:
        cluster["certificate-authority-data"] = base64.b64encode(pem).decode()
    return changed


def with_client(document: dict[str, Any], certificate_pem: bytes, key_pem: bytes) -> dict[str, Any]:
    """Return the kubeconfig with another client certificate and key in it."""
    changed = copy.deepcopy(document)
    user = _user(changed)
    user.pop("client-certificate", None)
    user.pop("client-key", None)
    user["client-certificate-data"] = base64.b64encode(certificate_pem).decode()
    user["client-key-data"] = base64.b64encode(key_pem).decode()
    return changed


def with_client_files(document: dict[str, Any], certificate: str, key: str) -> dict[str, Any]:
    """Return the kubeconfig with the paths of a client certificate and its key."""
    changed = copy.deepcopy(document)
    user = _user(changed)
    for name in ("client-certificate-data", "client-key-data"):
        user.pop(name, None)
    user["client-certificate"], user["client-key"] = certificate, key
    return changed


def _context(document: dict[str, Any]) -> dict[str, Any]:
    found = next(each for each in document["contexts"] if each["name"] == document["current-context"])
    return dict(found["context"])


def _cluster(document: dict[str, Any]) -> dict[str, Any]:
    name = _context(document)["cluster"]
    found: dict[str, Any] = next(each for each in document["clusters"] if each["name"] == name)["cluster"]
    return found


def _user(document: dict[str, Any]) -> dict[str, Any]:
    name = _context(document)["user"]
    found: dict[str, Any] = next(each for each in document["users"] if each["name"] == name)["user"]
    return found


def _data_or_path(section: dict[str, Any], name: str, what: str) -> bytes | str:
    if f"{name}-data" in section:
        try:
            return base64.b64decode(section[f"{name}-data"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise NodeError(f"{what}: {name}-data is not base64") from None
    return str(section.get(name, ""))
