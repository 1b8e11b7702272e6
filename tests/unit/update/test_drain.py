"""Draining on a real kernel: what a drained endpoint answers to whom, and when it counts as idle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import drain
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import guest_of, network_of
from tests.support.modules import ROOT
from tests.support.namespaces import Bed

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None, reason="makes network namespaces and loads rulesets"
)
NETWORK = network_of({"subnet": "10.213.0.0/24", "uplink": "eth0"})
GUEST = guest_of(NETWORK, "a", "10.213.0.10")
#: Connects, waits for a line, sends a request on the same connection, and says how each went.
_KEPT_ALIVE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as kept:
    kept.sendall(b"first")
    print(kept.recv(100).decode(), flush=True)
    sys.stdin.readline()
    try:
        kept.sendall(b"second")
        print(kept.recv(100).decode() or "closed", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
#: Sends a request whose answer takes a while, says when it begins and what it is as a whole.
_SLOW = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    connection.sendall(b"slow")
    answer = connection.recv(1)
    print("begun", flush=True)
    while not answer.endswith(b"answered"):
        answer += connection.recv(100) or b" broken: answered"
    print(answer.decode(), flush=True)
"""
#: Answers the first word at once, and "slow" only a while after it was sent, in several segments.
_ECHO_SERVER = """
import socket, sys, threading, time
def serve(connection):
    while said := connection.recv(100):
        for _ in range(3 if said == b"slow" else 0):
            time.sleep(0.4)
            connection.sendall(b".")
        connection.sendall(b"answered")
server = socket.create_server(("0.0.0.0", 9000))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """A host with a guest that has an address of its own."""
    with Bed(NETWORK, [GUEST]) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_drained(request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin and end without a table."""
    yield
    if "bed" in request.fixturenames:
        made = request.getfixturevalue("bed")
        made.filter(f"table inet {drain.TABLE}\ndelete table inet {drain.TABLE}")


def module(bed: Bed, directory: Path, **arguments: Any) -> dict[str, Any]:
    """Run module runtime_drain on the host."""
    path = directory / "arguments.json"
    given = {**arguments, "_ansible_remote_tmp": str(directory)}
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": given}))
    program = [sys.executable, str(ROOT / "plugins/modules/runtime_drain.py"), str(path)]
    text = bed.inside("host", "env", f"PYTHONPATH={ROOT / 'collection'}", *program)
    result: dict[str, Any] = json.loads(text)
    return result


@needs_root
def test_a_drained_address_refuses_everybody_but_the_host_itself(bed: Bed, tmp_path: Path) -> None:
    assert bed.reaches("world", GUEST.address, 8000) and bed.reaches("host", GUEST.address, 8000)
    result = module(bed, tmp_path, name="a", endpoints=[f"{GUEST.address}:8000"])
    assert result["changed"] and result["refused"]
    assert not bed.reaches("world", GUEST.address, 8000)
    assert not bed.reaches("host", GUEST.address, 8000), "a client on the host is a client"
    assert bed.reaches("world", GUEST.address, 443), "another port"
    asked = "from ansible_collections.vllmd.platform.plugins.module_utils import host_http as h; h.opener().open"
    program = f"{asked}('http://{GUEST.address}:8000', timeout=2)"
    done = subprocess.run(
        ["ip", "netns", "exec", f"vllmd-{os.getpid()}-host", sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "collection")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "refused" not in done.stderr and "RemoteDisconnected" in done.stderr, (
        "it came through, and the bed closes without an answer"
    )


@needs_root
def test_a_port_of_every_address_is_drained_where_it_is_the_hosts(bed: Bed, tmp_path: Path) -> None:
    module(bed, tmp_path, name="a", endpoints=["0.0.0.0:8000"])
    assert not bed.reaches("world", Bed.uplink_address, 8000)
    assert not bed.reaches("host", "127.0.0.1", 8000)
    assert bed.reaches("world", GUEST.address, 8000), "that is another one's"


@needs_root
def test_one_ends_and_the_other_stays_drained(bed: Bed, tmp_path: Path) -> None:
    first, second = f"{GUEST.address}:8000", f"{Bed.uplink_address}:8000"
    module(bed, tmp_path, name="a", endpoints=[first])
    module(bed, tmp_path, name="b.1", endpoints=[second])
    assert not module(bed, tmp_path, name="a", endpoints=[first])["changed"]
    assert module(bed, tmp_path, name="a", state="undrained")["changed"]
    assert bed.reaches("world", GUEST.address, 8000) and not bed.reaches("world", Bed.uplink_address, 8000)
    assert not module(bed, tmp_path, name="a", state="undrained")["changed"]
    module(bed, tmp_path, name="b.1", state="undrained")
    assert drain.TABLE not in bed.inside("host", "nft", "list", "tables")
    assert bed.reaches("world", Bed.uplink_address, 8000)


@needs_root
def test_a_request_that_runs_ends_and_the_next_on_its_connection_is_refused(bed: Bed, tmp_path: Path) -> None:
    def spawn(where: str, *command: str) -> subprocess.Popen[str]:
        prefix = ["ip", "netns", "exec", f"vllmd-{os.getpid()}-{where}", sys.executable, "-ISc"]
        return subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    server = spawn("a", _ECHO_SERVER)
    kept, running = None, None
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        kept = spawn("world", _KEPT_ALIVE, GUEST.address, "9000")
        assert kept.stdout is not None and kept.stdout.readline() == "answered\n"
        running = spawn("world", _SLOW, GUEST.address, "9000")
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        module(bed, tmp_path, name="a", endpoints=[f"{GUEST.address}:9000"])
        assert running.stdout.readline() == "...answered\n"
        assert kept.communicate("\n", timeout=10)[0] == "ConnectionResetError\n"
    finally:
        for process in (server, kept, running):
            if process is not None:
                process.kill()
                process.wait()


@needs_root
def test_a_wrong_endpoint_is_one_line(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {"name": "a", "endpoints": ["here"]}}))
    program = [sys.executable, str(ROOT / "plugins/modules/runtime_drain.py"), str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "collection")}
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert json.loads(done.stdout)["msg"] == (
        "runtime a: endpoint 'here' is no IPv4 address and port such as 192.0.2.10:8000"
    )


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        ("vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n", 0),
        ('vllm:num_requests_running{engine="0",model_name="a{}b"} 2.0\nvllm:num_requests_waiting{engine="0"} 1', 3),
        ('vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 4\n', 5),
        ("# HELP vllm:num_requests_running Number of requests.\nvllm:num_requests_swapped 7\n", None),
        ("", None),
    ],
)
def test_requests_are_counted_over_engines(text: str, requests: int | None) -> None:
    assert drain.in_flight(text) == requests


def test_a_listing_is_read_as_it_was_made() -> None:
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"set": {"name": "endpoints", "elem": [{"elem": {"val": {"concat": ["10.0.0.1", 8000]}, "comment": "a"}}]}},
            {"set": {"name": "ports", "elem": [{"elem": {"val": 8001, "comment": "a"}}]}},
            {"set": {"name": "empty"}},
        ]
    }
    assert drain.drained(listing) == {"a": [("0.0.0.0", 8001), ("10.0.0.1", 8000)]}  # noqa: S104
