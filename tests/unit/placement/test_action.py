"""Module plan as Ansible runs it, and the plan's file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.placement import report, store
from ansible_collections.vllmd.platform.plugins.module_utils.placement.capacity import as_dict
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan
from tests.support.fleets import host, runtime

ROOT = Path(__file__).parents[3]
HOSTS = [host("a", ["nvidia-a40"] * 2, cores=(4, 4), memory_gib=(16, 16), threads=2), host("b", cores=(2,))]
RUNTIMES = [
    runtime("big", accelerators=2, cpu=6, memory_gib=20),
    runtime("huge", accelerators=1, kind="nvidia-a40"),
    runtime("small", most=2),
]


def ansible(directory: Path, *options: str, **given: Any) -> dict[str, Any]:
    """Call the module for a host that cannot be reached, which it need not, and return its result."""
    arguments = {
        "path": str(directory / "plan.json"),
        "capacities": [as_dict(each) for each in HOSTS],
        "runtimes": RUNTIMES,
        **given,
    }
    command = [str(Path(sys.executable).with_name("ansible")), "unreachable.invalid", "-i", "unreachable.invalid,"]
    command += ["-m", "vllmd.platform.plan", "-a", json.dumps(arguments), *options]
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


def test_it_writes_once_and_then_nothing(tmp_path: Path) -> None:
    first = ansible(tmp_path)
    assert first["changed"] is True
    text = (tmp_path / "plan.json").read_text()
    assert json.loads(text)["placements"] == first["plan"]["placements"]
    again = ansible(tmp_path)
    assert again["changed"] is False
    assert {each["action"] for each in again["plan"]["changes"]} == {"keep"}
    assert (tmp_path / "plan.json").read_text() == text


def test_check_mode_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    checked = ansible(tmp_path, "--check")
    assert checked["changed"] is True
    assert not (tmp_path / "plan.json").exists()
    assert ansible(tmp_path)["plan"] == checked["plan"]


def test_numbers_on_the_command_line_are_text(tmp_path: Path) -> None:
    assert [each["id"] for each in ansible(tmp_path, replicas={"small": "2"})["plan"]["placements"]][-1] == "small.1"
    assert "replicas: small is 'two'; allowed: a whole number" in ansible(tmp_path, replicas={"small": "two"})["msg"]


@pytest.mark.parametrize("content", ["{", "[]", '{"placements": 1}', "\udcff\udcfe", "[" * 100000])
def test_a_spoilt_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    result = ansible(tmp_path)
    assert "not a plan" in result["msg"]
    assert "\n" not in result["msg"]
    assert path.read_bytes() == content.encode("utf-8", "surrogateescape")


def test_two_at_once_are_told_who_is_first(tmp_path: Path) -> None:
    with store.locked(tmp_path / "plan.json"):
        result = ansible(tmp_path)
    assert f"is in use by process {os.getpid()} of " in result["msg"]


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = ansible(tmp_path, path=str(tmp_path / "file/plan.json"))
    assert result["msg"].count("\n") == 0
    assert "/file: " in result["msg"]


TABLE = """\
   replica  host  accelerators                     cpus           memory        why
+  big      a     2 x nvidia-a40 10:00.0 11:00.0   6: 0-1,4,8-9,12  20Gi node 0,1  new runtime
+  small    b     -                                1: 0           1Gi node 0    new runtime
replicas: 2 to add, 1 that do not fit
huge does not fit (replica 0): asks for 1 x nvidia-a40, 1 CPUs, 1024 MiB, which no host has free
    nearest: a lacks 1 accelerator

host  accelerators  cpus  memory     replicas
a     2/2           6/16  20Gi/32Gi  1
b     0/0           1/2   1Gi/64Gi   1
"""


def test_the_table() -> None:
    plan = make_plan(HOSTS, RUNTIMES, None, Options())
    assert [" ".join(line.split()) for line in report.lines(plan)] == [
        " ".join(line.split()) for line in TABLE.splitlines()
    ]
    kept = make_plan(HOSTS, RUNTIMES, plan, Options())
    assert report.lines(kept, keep=False)[0] == "replicas: 2 as they are, 1 that do not fit"


def test_the_file_has_one_placement_a_line() -> None:
    plan = make_plan(HOSTS, RUNTIMES, None, Options())
    text = report.text(plan)
    assert json.loads(text) == plan
    assert sum('"cpus": [' in line for line in text.splitlines()) == len(plan["placements"])


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 8), "0-2,8"), ((5, 4, 9, 7), "4-5,7,9")]
)
def test_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert report.ranges(numbers) == text
