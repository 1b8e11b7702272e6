"""Replicas that left the plan leave their hosts, with real guests; what nobody planned stays."""

from __future__ import annotations

import json

from tests.support.small_fleet import SmallFleet, manifest


def test_moved_and_fewer(fleet: SmallFleet) -> None:
    """One moves, another has a replica less; an address of an earlier plan is no longer used."""
    one, two = manifest("one", 8001), manifest("two", 8002, replicas=2)
    fleet.describe(one, two)
    done = fleet.play("plan")
    assert done.returncode == 0, done.stdout
    done = fleet.start()
    assert done.returncode == 0, done.stdout
    before = fleet.placed()
    assert fleet.running() == before
    (host,) = [host for host, names in before.items() if "one" in names]
    (other,) = {*fleet.hosts} - {host}

    # A host that cannot be reached keeps what it runs, in the plan, too.
    fleet.describe(one, manifest("two", 8002))
    (fleet.directory / f"{other}.gone").touch()
    assert fleet.play("plan", vllmd_plan_replicas={"two": 1}).returncode != 0
    assert {host: sorted(names) for host, names in fleet.placed().items()} == before
    (fleet.directory / f"{other}.gone").unlink()

    planned = fleet.play("plan", vllmd_plan_move=["one"], vllmd_plan_drain=[host])
    assert planned.returncode == 0, planned.stdout
    assert "one" in fleet.placed()[other]
    done = fleet.start()
    assert done.returncode == 0, done.stdout
    assert fleet.running() == fleet.placed()
    assert fleet.files(host) == ["placed.json"]
    assert json.loads((fleet.home(host) / "runtimes/placed.json").read_text()) == {}
