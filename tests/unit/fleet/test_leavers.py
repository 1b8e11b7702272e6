"""Scaled, moved and removed, with real guests: replicas that left the plan leave their hosts."""

from __future__ import annotations

import json

from tests.support.small_fleet import SmallFleet, manifest


def test_scaled_by_hand_and_moved(fleet: SmallFleet) -> None:
    fleet.describe(manifest("one", 8001), manifest("two", 8002))
    done = fleet.play("plan")
    assert done.returncode == 0, done.stdout
    done = fleet.start()
    assert done.returncode == 0, done.stdout
    assert fleet.running() == fleet.placed()

    done = fleet.play("scale", vllmd_plan_replicas={"two": 2}, vllmd_scale_by_rule=False)
    assert done.returncode == 0, done.stdout
    assert "two: 1 -> 2 replicas, asked for" in done.stdout
    before = fleet.running()
    assert sorted(each for names in before.values() for each in names) == ["one", "two", "two.1"]
    assert before == fleet.placed()

    # A host that cannot be reached keeps what it runs, in the plan, too.
    (other,) = [host for host, names in before.items() if "two.1" in names]
    (fleet.directory / f"{other}.gone").touch()
    done = fleet.play("scale", vllmd_plan_replicas={"two": 1}, vllmd_scale_by_rule=False)
    assert done.returncode == 4, done.stdout
    assert f"{other} could not be read, so it leaves later" in done.stdout
    assert fleet.running() == before == fleet.placed()
    (fleet.directory / f"{other}.gone").unlink()

    # It is back: what left goes. Another one moves, and serves until its new host serves.
    (host,) = [host for host, names in before.items() if "one" in names]
    done = fleet.play("plan", vllmd_plan_move=["one"], vllmd_plan_drain=[host])
    assert done.returncode == 0, done.stdout
    done = fleet.start()
    assert done.returncode == 0, done.stdout
    assert fleet.running() == fleet.placed()
    assert fleet.files(host) == ["placed.json"]
    assert json.loads((fleet.home(host) / "runtimes/placed.json").read_text()) == {}
