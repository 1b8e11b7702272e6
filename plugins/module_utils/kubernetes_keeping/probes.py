# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether etcd, the API server and the kubelet of this member answer, and how long certificates live and disks last."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from .errors import KeepingError
from .member import PKI, Member, arguments, manifest_of

_POLL_SECONDS = 1.0


def get(url: str, *, timeout: float, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Return status and text of the answer; status 0 and the reason when there is none in ``timeout`` seconds."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 22).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, " ".join(str(error).split()) or type(error).__name__
    finally:
        connection.close()


def api_server(root: Path = Path("/"), aside: Path | None = None) -> tuple[str, ssl.SSLContext]:
    """Return the URL of this member's API server and credentials for it. Raises KeepingError, OSError.

    Anonymous requests may be forbidden, so it is asked with the certificate that it talks to kubelets with, which
    kubeadm puts on every member.
    """
    given = arguments(manifest_of(root, "kube-apiserver", aside))
    address = given.get("advertise-address") or "127.0.0.1"
    shown = f"[{address}]" if ":" in address else address
    try:
        context = ssl.create_default_context(cafile=str(root / PKI / "ca.crt"))
        context.load_cert_chain(
            root / PKI / "apiserver-kubelet-client.crt", root / PKI / "apiserver-kubelet-client.key"
        )
    except (OSError, ssl.SSLError) as error:
        raise KeepingError(
            f"{root / PKI}: the API server cannot be asked without ca.crt and apiserver-kubelet-client ({error})"
        ) from None
    return f"https://{shown}:{given.get('secure-port', '6443')}", context


def listens(url: str) -> bool:
    """Return whether something accepts connections at the URL's address."""
    parts = urllib.parse.urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 443), timeout=3):
            return True
    except OSError:
        return False


def runs(member: Member, root: Path, aside: Path | None) -> list[str]:
    """Return what of the member's etcd and API server still accepts connections. Raises KeepingError, OSError."""
    urls = {"etcd's clients": member.client_url, "etcd's peers": member.peer_url}
    given = arguments(manifest_of(root, "kube-apiserver", aside))
    urls["the API server"] = f"https://127.0.0.1:{given.get('secure-port', '6443')}"
    return [f"{what} at {url}" for what, url in urls.items() if listens(url)]


def wait(what: str, seconds: float, trouble: Callable[[], str]) -> None:
    """Wait until ``trouble`` says nothing more. Raises KeepingError with what it said last after ``seconds``."""
    deadline = time.monotonic() + seconds
    while said := trouble():
        if time.monotonic() > deadline:
            raise KeepingError(f"{what} after {seconds:.0f} s: {said}")
        time.sleep(_POLL_SECONDS)
