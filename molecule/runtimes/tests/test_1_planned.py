"""Each replica runs where the plan put it, on the CPUs and the memory that are its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import named, replicas


def cpus(text: str) -> set[int]:
    """CPU numbers as the kernel and systemd list them: ``0-2,8``."""
    found: set[int] = set()
    for part in text.replace(" ", ",").split(","):
        first, _dash, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_replicas_of_one_runtime_are_on_different_hosts() -> None:
    placed = replicas()
    assert set(placed) == {"amber", "amber.1", "birch"}
    assert placed["amber"].placement["host"] != placed["amber.1"].placement["host"]


def test_no_cpu_is_given_twice() -> None:
    given = [(each.placement["host"], cpu) for each in replicas().values() for cpu in each.placement["cpus"]]
    assert len(given) == len(set(given))


@pytest.mark.parametrize("name", ["amber", "amber.1", "birch"])
def test_the_plan_holds_on_the_host(name: str) -> None:
    replica = named(name)
    own = set(replica.placement["cpus"])
    assert cpus(replica.shown("AllowedCPUs")) == own
    status = replica.host.file(f"/proc/{replica.pid()}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert cpus(fields["Cpus_allowed_list"]) == own
    # Every thread of it, the guest's own processors among them.
    lists = replica.host.check_output(f"grep -h Cpus_allowed_list: /proc/{replica.pid()}/task/*/status")
    assert {line.split()[1] for line in lists.splitlines()} == {fields["Cpus_allowed_list"].strip()}


@pytest.mark.parametrize("name", ["amber", "amber.1", "birch"])
def test_memory_comes_from_the_nodes_of_the_plan(name: str) -> None:
    replica = named(name)
    nodes = ",".join(str(each["node"]) for each in replica.placement["memory"])
    assert replica.shown("NUMAPolicy") == "bind"
    maps = replica.host.file(f"/proc/{replica.pid()}/numa_maps").content_string
    assert {line.split()[1] for line in maps.splitlines()} == {f"bind:{nodes}"}


@pytest.mark.parametrize("name", ["amber", "amber.1", "birch"])
def test_it_serves_clients_at_its_hosts_address(name: str) -> None:
    assert named(name).ask() == "release one heard: who?"
