"""The whole playbook on hosts that are namespaces: a client that notices nothing, and a kill at any point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.update_bed import ROOT, Bed

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("xorriso") is None,
    reason="makes namespaces, loads rulesets and writes config images",
)
A, B, C, D = (letter * 12 for letter in "abcd")
#: Four threads that ask by one client again and again; the last line counts the answers of each version, and errors.
_HAMMER = """
import collections, json, sys, threading
from vllmd.client import Client, VllmdError
seen, stop = collections.Counter(), threading.Event()
with Client(sys.argv[1:], model="m", timeout=30) as llm:
    def ask():
        while not stop.is_set():
            try:
                seen[llm.complete("x", max_tokens=1)] += 1
            except VllmdError as error:
                seen[f"failed: {error}"] += 1
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads: each.start()
    print("hammering", flush=True)
    sys.stdin.read()
    stop.set()
    for each in threads: each.join()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """One host with one replica, which serves from A."""
    with Bed(tmp_path_factory.mktemp("one"), "h1") as bed:
        bed.publish(A)
        started = bed.run("start")
        assert started.returncode == 0, started.stdout[-3000:]
        yield bed


def settled(bed: Bed, host: str, version: str) -> bool:
    """Whether nothing of an update is left, and what is remembered is what answers."""
    served = bed.read(host, "served") or {}
    tables = bed.inside(host, "nft", "list", "tables")
    assert (bed.read(host, "update"), tables, served.get("image")) == (None, "", f"stub {version}")
    return bed.image_running(host) == version


def test_an_update_goes_on_wherever_it_was_killed(one: Bed) -> None:
    one.publish(B)
    for mark in ("[Write its config image]", " : Wait until they serve]", "[Let it answer]"):
        one.kill_after(mark, "update")
        assert one.read("h1", "update"), f"killed at {mark}"
        assert (one.read("h1", "served") or {})["image"] == f"stub {A}"
        assert one.image_running("h1") == "", "it is drained"
    done = one.run("update")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "its last update did not end" in done.stdout
    assert settled(one, "h1", B)


def test_a_roll_back_goes_on_where_it_was_killed(one: Bed) -> None:
    before = (one.read("h1", "served") or {})["image"].removeprefix("stub ")
    one.publish(C, answer=" ")
    one.kill_after("[Start it as it was]", "update")
    assert one.read("h1", "refused")
    done = one.run("start")
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"stub {C} was refused here" in done.stdout
    assert settled(one, "h1", before)


def test_a_client_of_two_replicas_notices_nothing(tmp_path: Path) -> None:
    with Bed(tmp_path, "h1", "h2") as bed:
        bed.publish(A, answer="A")
        assert bed.run("start").returncode == 0
        bed.publish(B, answer="B")
        urls = [f"http://{address}:8000" for address in bed.addresses.values()]
        hammer = subprocess.Popen(
            bed.command("client", sys.executable, "-c", _HAMMER, *urls),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            assert hammer.stdout is not None and hammer.stdout.readline() == "hammering\n"
            updated = bed.run("update")
            assert updated.returncode == 0, updated.stdout[-3000:]
            bed.publish(D, answer=" ")
            refused = bed.run("update")
            seen = json.loads(hammer.communicate(timeout=60)[0])
        finally:
            hammer.kill()
            hammer.wait()
        assert refused.returncode != 0
        assert "stub was rolled back, and serves as before" in refused.stdout
        assert settled(bed, "h1", B) and settled(bed, "h2", B)
        assert [bool(bed.read(host, "refused")) for host in ("h1", "h2")] == [True, False]
        assert set(seen) == {"A", "B"}, seen
