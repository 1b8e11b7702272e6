"""A round over all runtimes, and the module that keeps its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.placement import store
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan
from ansible_collections.vllmd.platform.plugins.module_utils.scaling import Memory, Moment, Rule, ScalingError
from ansible_collections.vllmd.platform.plugins.module_utils.scaling_round import round_of
from tests.support.fleets import host, runtime

ROOT = Path(__file__).parents[3]
FLEET = [host("a"), host("b")]
RUNTIMES = [runtime("one", most=3), runtime("two", replicas=0, most=2)]
BUSY = {"waiting": 20.0, "running": 16.0, "kv_cache": 0.9}
PLACEMENTS = [{"id": "one", "runtime": "one"}, {"id": "one.1", "runtime": "one", "leaving": True}]


def test_what_leaves_is_not_counted_and_an_engine_has_its_own_limit() -> None:
    moment, memories = Moment("b", 1000), {"one": Memory(0)}
    wanted = [{**RUNTIMES[0], "spec": {**RUNTIMES[0]["spec"], "engine": {"max-num-seqs": 4}}}, RUNTIMES[1]]
    load = {"one": {"waiting": 1, "running": 4, "kv_cache": 0.1}, "one.1": BUSY}
    done = round_of(PLACEMENTS, wanted, load, memories, moment, Rule())
    assert done.replicas == {"one": 2, "two": 0}
    assert done.scaled == {
        "one": {"before": 1, "after": 2, "reason": "5 requests and 10% of the KV cache ask for 2 replicas"}
    }
    assert round_of(PLACEMENTS, RUNTIMES, load, memories, moment, Rule()).scaled == {}
    assert done.lines[0].startswith("one: 1 -> 2 replicas, 5 requests")


def test_by_hand_the_rule_is_not_asked() -> None:
    moment, memories = Moment("b", 1000), {"one": Memory(0)}
    done = round_of(PLACEMENTS, RUNTIMES, {"one": BUSY}, memories, moment, Rule(), {"two": "2"}, by_rule=False)
    assert done.replicas == {"one": 1, "two": 2}
    # And what was asked for is not taken back at once.
    assert done.decisions["two"].memory == Memory(1000)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"one": 4}, "replicas: one is 4; allowed: 1 to 3, by its spec.scaling"),
        ({"one": 0}, "replicas: one is 0; allowed: 1 to 3"),
        ({"one": "many"}, "replicas: one is many; allowed: 1 to 3"),
        ({"on": 1}, "replicas: no runtime 'on'; did you mean 'one'?"),
    ],
)
def test_a_number_that_is_not_allowed(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ScalingError) as refused:
        round_of(PLACEMENTS, RUNTIMES, {}, {}, Moment("b", 0), Rule(), asked)
    assert said in str(refused.value)


def ansible(directory: Path, *options: str, **given: Any) -> dict[str, Any]:
    """Call the module and return its result."""
    arguments = {
        "path": str(directory / "runtimes.scale.json"),
        "plan": str(directory / "plan.json"),
        "runtimes": RUNTIMES,
        **given,
    }
    command = [str(Path(sys.executable).with_name("ansible")), "unreachable.invalid", "-i", "unreachable.invalid,"]
    command += ["-m", "vllmd.platform.scale", "-a", json.dumps(arguments), *options]
    (directory / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collection"),
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.partition("=> ")[2])
    return result


def test_the_module_remembers(tmp_path: Path) -> None:
    assert "there is no plan" in ansible(tmp_path)["msg"]
    store.save(tmp_path / "plan.json", make_plan(FLEET, RUNTIMES, None, Options()))
    state = tmp_path / "runtimes.scale.json"
    state.write_text("{ spoilt")
    assert ansible(tmp_path, "--check", loads={"one": BUSY})["changed"] is False
    assert state.read_text() == "{ spoilt"
    # A spoilt memory is one that has just begun, so nothing changes yet.
    first = ansible(tmp_path, loads={"one": BUSY}, up_after=3600)
    assert (first["changed"], first["replicas"]) == (False, {"one": 1, "two": 0})
    assert "waits" in first["lines"][0]
    assert json.loads(state.read_text())["runtimes"]["one"]["replicas"] == 1
    second = ansible(tmp_path, loads={"one": BUSY}, up_after=0)
    assert second["scaled"]["one"]["after"] == 3
    with store.locked(tmp_path / "plan.json"):
        refused = ansible(tmp_path)
    assert refused["locked"] is True
    assert f"is in use by process {os.getpid()} of " in refused["msg"]
