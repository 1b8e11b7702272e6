"""The whole playbook on a host that is a namespace, killed at any point of an update."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.update_bed import Bed

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("xorriso") is None,
    reason="makes namespaces, loads rulesets and writes config images",
)
A, B, C = (letter * 12 for letter in "abc")


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
