# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""HTTP from a host to the runtimes on it: without a proxy, and let through to a runtime that is being drained.

Connections carry the mark that the drain's packet filter passes (drain.py). Setting it takes CAP_NET_ADMIN; without
that they are like any other's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.error
import urllib.request
from typing import Any

#: What drain.ruleset lets pass.
MARK = 0x766C6C6D
#: socket(7); not every build of Python has the name.
_SO_MARK = getattr(socket, "SO_MARK", 36)


class HttpError(Exception):
    """No useful answer; ``timed_out``: nobody answered in time, which is not to say that nobody is there."""

    def __init__(self, message: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        """Connect with the mark."""
        error: OSError | None = None
        for family, kind, protocol, _name, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            endpoint = socket.socket(family, kind, protocol)
            try:
                with contextlib.suppress(PermissionError):
                    endpoint.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
                endpoint.settimeout(self.timeout)
                endpoint.connect(address)
            except OSError as failure:
                endpoint.close()
                error = failure
            else:
                self.sock = endpoint
                return
        raise error or OSError(f"{self.host} has no address")


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open by a connection of ours."""
        return self.do_open(_Connection, req)


def opener() -> urllib.request.OpenerDirector:
    """Return what opens URLs of runtimes on this host."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _Handler())


def fetch(url: str, timeout: float, body: dict[str, Any] | None = None) -> str:
    """Return what ``url`` answers to GET, or to POST with ``body`` as JSON, within ``timeout`` seconds.

    Raises HttpError unless it is a 2xx.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - a runtime's URL
    try:
        with opener().open(request, timeout=timeout) as response:
            return str(response.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        said = error.read(300).decode("utf-8", "replace").strip()
        raise HttpError(f"it answered {error.code}{': ' + ' '.join(said.split()) if said else ''}") from None
    except urllib.error.URLError as error:
        raise HttpError(f"no answer: {error.reason}", isinstance(error.reason, TimeoutError)) from None
    except (OSError, http.client.HTTPException) as error:
        raise HttpError(f"no answer: {error or type(error).__name__}", isinstance(error, TimeoutError)) from None
