"""HTTP/1.1 over a unix socket, one request per connection: all that Cloud Hypervisor's API needs.

http.client would do it too, but its import alone costs a fifth of the time `start` may take.
"""

import json
import socket
from pathlib import Path
from typing import Any

from vllmd_hypervisor.errors import LaunchError

_ANSWER_LIMIT = 1 << 22


def request(path: Path, method: str, resource: str, body: Any, timeout_seconds: float) -> tuple[int, bytes]:
    """Return (status code, body). OSError when nobody answers, LaunchError when what answers is no HTTP server."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} /api/v1/{resource} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        connection.sendall(head.encode("ascii") + b"\r\n" + payload)
        with connection.makefile("rb") as stream:
            return _read_answer(stream)


def _read_answer(stream: Any) -> tuple[int, bytes]:
    status = stream.readline(4096).split(None, 2)
    if not status:
        raise ConnectionResetError("the VMM closed its socket")
    try:
        code = int(status[1])
        length = 0
        while (line := stream.readline(4096).strip()) != b"":
            key, value = [*line.split(b":", 1), b""][:2]
            if key.strip().lower() == b"content-length":
                length = int(value)
    except (ValueError, IndexError):
        raise LaunchError("what answers on the API socket does not speak HTTP") from None
    if not status[0].startswith(b"HTTP/") or not 0 <= length <= _ANSWER_LIMIT:
        raise LaunchError("what answers on the API socket does not speak HTTP")
    return code, stream.read(length)
