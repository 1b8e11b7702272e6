"""Scaled by load, scaled by hand, moved: what left the plan leaves its host, and only that."""

from __future__ import annotations

import json

from .conftest import Fleet


def test_scaled_and_moved(fleet: Fleet) -> None:
    fleet.publish("000000000001", waiting=9.0)
    by_hand = "/etc/vllmd/hypervisor/by-hand.env"
    for host in fleet.names:
        fleet.inside(host, "install", "-D", "/dev/null", by_hand)
    fleet.do("plan")
    fleet.do("start")
    assert fleet.running() == fleet.placed() == {"stub": "a"}

    told = fleet.do("scale", vllmd_scale_up_after=0)
    assert "stub: 1 -> 2 replicas, 9 requests wait" in told
    assert fleet.running() == fleet.placed() == {"stub": "a", "stub.1": "b"}
    assert "stub: 2 replicas" in fleet.do("scale", "--check")

    # A host that cannot be reached keeps what it runs, in the plan, too.
    fleet.gone("b").touch()
    told = fleet.do("scale", status=4, vllmd_plan_replicas={"stub": 1}, vllmd_scale_by_rule=False)
    assert "b could not be read, so it leaves later" in told
    assert fleet.running() == fleet.placed() == {"stub": "a", "stub.1": "b"}
    fleet.gone("b").unlink()

    # It is back, and one that moves there takes the place of the one that leaves.
    fleet.do("plan", vllmd_plan_move=["stub"], vllmd_plan_drain=["a"])
    assert fleet.placed() == {"stub": "b"}
    fleet.do("start")
    assert fleet.running() == {"stub": "b"}
    left = {host: fleet.inside(host, "ls", "/var/lib/vllmd/runtimes").split() for host in fleet.names}
    assert left == {"a": ["placed.json"], "b": ["placed.json", "stub"]}
    remembered = [fleet.inside(host, "cat", "/var/lib/vllmd/runtimes/placed.json") for host in fleet.names]
    assert list(map(json.loads, remembered)) == [{}, {"stub": "served"}]
    for host in fleet.names:
        assert by_hand in fleet.inside(host, "sh", "-c", "ls /etc/vllmd/hypervisor/*").split()
        assert "vllmd_drain" not in fleet.inside(host, "nft", "list", "tables")
