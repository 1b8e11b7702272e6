# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Requests with the certificates of a kubeconfig, or with one that is made for a single question."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import certificates, components, kubeconfigs

#: Who asks whether a new authority is believed; in no group, so that it may only read the version.
PROBE = "vllmd:certificate-probe"
_PROBE_MINUTES = 10


def accepts(address: tuple[str, int], issuer: certificates.Issuer) -> bool:
    """Return whether an API server believes client certificates of this authority.

    Everybody whom it knows may read /version; a certificate that it does not believe is answered with 401.
    """
    certificate, key = certificates.client(PROBE, issuer, datetime.now(UTC), _PROBE_MINUTES)
    context = components.anybody()
    with _chain(certificates.pem([certificate]) + certificates.key_pem(key)) as path:
        context.load_cert_chain(path)
    return components.answer("https", *address, "/version", context) == 200


def ask(root: Path, document: dict[str, Any], path: str, what: str) -> int:
    """Return the status of a GET with a kubeconfig whose client certificate is a file; 0 without an answer.

    Raises NodeError, OSError, and ssl.SSLError for certificates that cannot be used.
    """
    url = urlsplit(kubeconfigs.server(document))
    authorities = kubeconfigs.authorities(document, what)
    pem = (root / authorities.lstrip("/")).read_bytes() if isinstance(authorities, str) else authorities
    context = ssl.create_default_context(cadata=pem.decode("ascii", "replace"))
    client = kubeconfigs.client(document, what)
    if isinstance(client, str) and client:
        context.load_cert_chain(root / client.lstrip("/"))
    return components.answer("https", url.hostname or "", url.port or 443, path, context)


@contextmanager
def _chain(pem: bytes) -> Iterator[str]:
    """Give a file with a certificate and its key, in RAM and for this user alone: ssl takes nothing else."""
    directory = "/run" if os.access("/run", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=directory, prefix="vllmd-probe-") as file:
        file.write(pem)
        file.flush()
        yield file.name
