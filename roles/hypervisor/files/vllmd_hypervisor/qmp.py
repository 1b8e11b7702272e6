"""A client of QEMU's machine protocol, as much of it as start, stop and status need (docs/interop/qmp-spec)."""

import json
import socket
from pathlib import Path
from typing import Any

from vllmd_hypervisor.errors import LaunchError, one_line

_LINE_LIMIT = 1 << 20


def execute(path: Path, command: str, timeout_seconds: float) -> Any:
    """Connect, negotiate, run one command and return what it returned.

    OSError (timeouts included) when the VMM does not answer, LaunchError when it answers with a refusal or nonsense.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        with connection.makefile("rwb") as stream:
            _read_message(stream)
            for name in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": name}).encode() + b"\n")
                stream.flush()
                answer = _read_answer(stream, name)
            return answer


def _read_answer(stream: Any, name: str) -> Any:
    while True:
        message = _read_message(stream)
        if "return" in message:
            return message["return"]
        if "error" in message:
            raise LaunchError(f"QEMU refused {name}: {one_line(str(message['error']))}")


def _read_message(stream: Any) -> dict[str, Any]:
    line = stream.readline(_LINE_LIMIT)
    if not line:
        raise ConnectionResetError("QEMU closed its socket")
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise LaunchError("what answers on the QMP socket does not speak QMP")
    return message
