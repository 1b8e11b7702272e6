"""One change at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.placement import store
from vllmdctl.errors import BUSY, CtlError
from vllmdctl.lock import duration, exclusive, lock_path

from .conftest import ROOT, Ctl


def test_a_second_one_is_told_who_and_for_how_long(inventory: Path, ctl: Ctl) -> None:
    with exclusive(inventory, "apply"):
        path = lock_path(inventory)
        owner = json.loads(path.read_text())
        assert owner["pid"] == os.getpid()
        path.write_text(json.dumps(owner | {"since": time.time() - 192}))
        done = ctl("apply")
    assert done.returncode == BUSY
    who = f"process {os.getpid()} of {owner['user']}@{owner['host']}"
    assert f"in use by 'vllmdctl apply', {who}, for 3m1" in done.stderr


def test_it_is_free_again_after_the_block_and_after_an_error(inventory: Path) -> None:
    with pytest.raises(KeyError), exclusive(inventory, "apply"):
        raise KeyError
    with exclusive(inventory, "apply"):
        pass


def test_a_killed_holder_leaves_nothing_to_clean(inventory: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vllmdctl.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'apply'): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(inventory)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CtlError, match=f"process {holder.pid}"), exclusive(inventory, "apply"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with exclusive(inventory, "apply"):
        pass


def test_a_broken_lock_file_still_says_something(inventory: Path) -> None:
    with exclusive(inventory, "apply"):
        lock_path(inventory).write_text("{}")
        with pytest.raises(CtlError, match="in use by another process"), exclusive(inventory, "apply"):
            pass


def test_a_clock_that_was_set_back_is_no_negative_age(inventory: Path) -> None:
    with exclusive(inventory, "apply"):
        path = lock_path(inventory)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"since": time.time() + 3600}))
        ahead = "since a time that is ahead of this machine's clock"
        with pytest.raises(CtlError, match=ahead) as refused, exclusive(inventory, "apply"):
            pass
    assert refused.value.status == BUSY


def test_who_plans_by_hand_meanwhile_is_in_the_way_too(inventory: Path, ctl: Ctl) -> None:
    plan = inventory / "runtimes.plan.json"
    with store.locked(plan):
        done = ctl("runtimes", "configure")
    assert done.returncode == BUSY, done.stderr
    assert f"the plan {plan} is in use by process {os.getpid()} of " in done.stderr


@pytest.mark.parametrize(("seconds", "said"), [(0.44, "0.4s"), (75, "1m15s"), (7300, "2h01m")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
