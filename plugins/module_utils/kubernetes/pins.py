# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The pin of a cluster's CA, and whose cluster a host is in.

A pin is ``sha256:`` and the SHA-256 of the certificate's SubjectPublicKeyInfo in DER (RFC 7469, section 2.4; kubeadm's
``--discovery-token-ca-cert-hash``). Hosts have no library for certificates, and to find that one field none is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import NodeError

_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s*(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION = 0x30, 0xA0
#: serialNumber, signature, issuer, validity, subject stand before it (RFC 5280, section 4.1).
_BEFORE_THE_KEY = 5


@dataclass(frozen=True)
class Membership:
    """The cluster that a host's kubelet talks to: the API server's URL and the pins of the CAs it believes."""

    server: str
    pins: tuple[str, ...]


def parse(given: Sequence[str]) -> list[str]:
    """Return the pins, sorted, each once. Raises NodeError when there is none or one is malformed."""
    pins = [str(pin).strip().lower() for pin in given]
    if not pins:
        raise NodeError(
            "no pin of the cluster's CA was given; a cluster is only joined by its pin, sha256:<64 "
            "hexadecimal digits>, "
            "which 'kubeadm token create --print-join-command' shows on its control plane"
        )
    for pin in pins:
        if not _PIN.fullmatch(pin):
            raise NodeError(f"CA pin {pin[:80]!r}: write sha256: and 64 hexadecimal digits")
    return sorted(set(pins))


def of_pem(text: str) -> tuple[str, ...]:
    """Return the pins of all certificates in a PEM text. Raises NodeError for text that holds none or a broken one."""
    found = []
    for block in _PEM.findall(text):
        try:
            found.append(_pin(base64.b64decode("".join(block.split()), validate=True)))
        except (binascii.Error, IndexError, ValueError):
            raise NodeError("a CA certificate cannot be read; it is no PEM of an X.509 certificate") from None
    if not found:
        raise NodeError("a CA certificate cannot be read; there is no PEM certificate in it")
    return tuple(sorted(set(found)))


def membership(root: Path = Path("/")) -> Membership | None:
    """Return whose node the host at ``root`` is, from what kubeadm wrote; None when it is in no cluster.

    Raises NodeError for a kubelet.conf that says nothing of it, OSError for one that cannot be read.
    """
    path = root / "etc/kubernetes/kubelet.conf"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = ""
    # kubeadm writes one cluster, each field on a line of its own; a host need not have a YAML library.
    server = re.search(r"^\s*server:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    data = re.search(r"^\s*certificate-authority-data:\s*[\"']?([A-Za-z0-9+/=]+)", text, re.MULTILINE)
    file = re.search(r"^\s*certificate-authority:\s*[\"']?(/[^\s\"']+)", text, re.MULTILINE)
    try:
        if data:
            pem = base64.b64decode(data[1], validate=True).decode("ascii", "replace")
        elif file:
            pem = (root / file[1].lstrip("/")).read_text(encoding="utf-8")
        else:
            pem = ""
        if server and pem:
            return Membership(server[1], of_pem(pem))
    except (binascii.Error, UnicodeDecodeError, FileNotFoundError, NodeError):
        pass
    raise NodeError(
        f"{path} names no cluster and CA that can be read; run 'kubeadm reset' there, or leave, and join again"
    )


def _pin(der: bytes) -> str:
    _tag, start, end = element(der, 0)
    if end != len(der):
        raise ValueError("something follows the certificate")
    _tag, at, _end = element(der, start)
    if _tag != _SEQUENCE:
        raise ValueError("no tbsCertificate")
    if der[at] == _VERSION:
        at = element(der, at)[2]
    for _field in range(_BEFORE_THE_KEY):
        at = element(der, at)[2]
    tag, _start, end = element(der, at)
    if tag != _SEQUENCE:
        raise ValueError("no SubjectPublicKeyInfo")
    return f"sha256:{hashlib.sha256(der[at:end]).hexdigest()}"


def element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start of the content and end of the DER element at ``at`` (X.690, 8.1). Raises ValueError."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4:
            raise ValueError("length")
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    if start + length > len(der):
        raise ValueError("cut off")
    return tag, start, start + length
