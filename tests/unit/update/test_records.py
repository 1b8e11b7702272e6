"""What a host remembers of a runtime: the way back, an update under way, what was refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import runtime_records as records
from tests.support import modules

OLD = {"name": "a", "replica_of": "a", "image": "demo 1", "revision": "r1", "health_url": "http://h:1/health"}
NEW = {**OLD, "image": "demo 2", "revision": "r2"}


class Host:
    """The files of a runtime, and its directory."""

    def __init__(self, directory: Path) -> None:
        self.work = directory / "work"
        self.records = directory / "runtimes/a"
        self.env = directory / "etc/a.env"
        self.iso = self.records / "config.iso"
        self.drop_ins = directory / "units/a.service.d"
        for path in (self.work, self.records, self.env.parent, self.drop_ins):
            path.mkdir(parents=True)
        self.write("old")

    def write(self, text: str) -> None:
        self.env.write_text(f"IMAGE={text}\n")
        self.env.chmod(0o640)
        self.iso.write_bytes(b"\xff\x00" + text.encode())
        (self.drop_ins / "10-access.conf").write_text(text)

    def content(self) -> list[Any]:
        drop_ins = {path.name: path.read_text() for path in self.drop_ins.iterdir()}
        return [self.env.read_text(), self.iso.read_bytes(), drop_ins]

    def run(self, state: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        files = [str(self.env), str(self.iso), str(self.drop_ins)]
        given = {"path": str(self.records), "state": state, "files": files, **arguments}
        return modules.run("runtime_record", given, self.work, check)

    def names(self) -> set[str]:
        return {path.name for path in self.records.iterdir()} - {"config.iso"}

    def info(self) -> dict[str, Any]:
        given = {"directory": str(self.records.parent), "names": ["a"]}
        found: dict[str, Any] = modules.run("runtime_records_info", given, self.work)["records"]["a"]
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_served_comes_back_with_owner_and_mode_and_without_what_came_later(host: Host) -> None:
    before = host.content()
    assert host.run("served", entry=OLD)["changed"]
    assert not host.run("served", entry=OLD)["changed"]
    assert (host.records / "served.json").stat().st_mode & 0o777 == 0o600, "an environment may hold a secret"
    host.write("new")
    (host.drop_ins / "20-placement.conf").write_text("later")
    host.iso.unlink()
    assert len(host.run("restored", check=True)["files"]) == 4
    assert host.content != before
    result = host.run("restored")
    assert result["changed"] and len(result["files"]) == 4
    assert host.content() == before
    assert host.env.stat().st_mode & 0o777 == 0o640
    assert not host.run("restored")["changed"]


def test_an_update_under_way_is_not_yet_the_way_back(host: Host) -> None:
    host.run("served", entry=OLD)
    assert host.run("begun", entry=NEW)["changed"]
    assert not host.run("begun", entry=NEW)["changed"]
    host.write("new")
    assert not host.run("served", entry=NEW)["changed"]
    assert host.info()["served"]["image"] == "demo 1"
    assert host.run("updated", entry=NEW)["changed"]
    assert host.info()["served"]["image"] == "demo 2"
    assert host.names() == {"served.json"}


def test_a_refusal_names_what_is_kept_until_it_serves_after_all(host: Host) -> None:
    host.run("served", entry=OLD)
    host.run("begun", entry=NEW)
    refused = host.run("refused", entry=NEW, reason="it answered\n500")["refused"]
    assert (refused["image"], refused["kept"]["image"], refused["reason"]) == ("demo 2", "demo 1", "it answered 500")
    host.run("ended")
    assert host.names() == {"served.json", "refused.json"}
    host.run("served", entry=OLD)
    assert host.info()["refused"]["image"] == "demo 2", "what is kept serves; that says nothing of the other"
    host.run("served", entry=NEW)
    assert host.info()["refused"] is None


def test_nothing_is_known_that_could_come_back(host: Host) -> None:
    assert host.run("refused", entry=NEW, reason="why")["refused"]["kept"] is None
    assert "nothing is known that served before" in host.run("restored")["msg"]
    assert host.info()["served"] is None


def test_a_broken_record_is_one_line_that_says_what_to_do(host: Host) -> None:
    for text in ("{", "[]", '{"schema": 2}'):
        (host.records / "served.json").write_text(text)
        assert host.run("restored")["msg"].endswith("; remove it")


def test_a_dry_run_writes_nothing(host: Host) -> None:
    for state in ("begun", "served", "updated", "refused", "ended"):
        host.run(state, check=True, entry=NEW)
    assert host.names() == set()


def test_a_kill_while_writing_leaves_the_old_record(host: Host) -> None:
    host.run("served", entry=OLD)
    before = (host.records / "served.json").read_bytes()
    (host.records / f".served.json.partial-{os.getpid()}").write_bytes(before[:20])
    assert json.loads((host.records / "served.json").read_text())["image"] == "demo 1"
    assert host.info()["served"]["image"] == "demo 1"


def record(tried: dict[str, Any], kept: dict[str, Any] | None) -> dict[str, Any]:
    return records.refusal(kept, records.about(tried), "why", "2026-01-01T00:00:00+00:00")


def test_a_refused_image_is_refused_whatever_else_changes() -> None:
    refused = record(NEW, OLD)
    assert records.is_refused(refused, NEW)
    assert records.is_refused(refused, {**NEW, "revision": "r3"})
    assert not records.is_refused(refused, {**NEW, "image": "demo 3"}), "a newer build"
    assert not records.is_refused(refused, OLD)
    assert not records.is_refused(record(NEW, None), NEW), "there is nothing to keep"
    assert not records.is_refused(None, NEW)


def test_with_the_same_image_the_configuration_is_refused() -> None:
    refused = record({**OLD, "revision": "r2"}, OLD)
    assert records.is_refused(refused, {**OLD, "revision": "r2"})
    assert not records.is_refused(refused, {**OLD, "revision": "r3"})


def test_what_is_held_has_the_image_and_the_url_that_it_served_with() -> None:
    held = records.hold({**NEW, "health_url": "http://h:2/health"}, {"refused": record(NEW, OLD)})
    assert (held["image"], held["health_url"]) == ("demo 1", "http://h:1/health")
    assert held["held"] == "demo 2 was refused here on 2026-01-01T00:00:00+00:00: why"


def test_an_image_that_one_replica_refused_is_not_tried_by_the_next() -> None:
    known = {"h1": {"a": {"refused": record(NEW, OLD)}}, "h2": {"a": {"refused": None}}, "h3": None}
    refusals = records.refusals(known)
    assert "refused by a on h1" in records.hold(NEW, {"served": OLD}, refusals)["held"]
    assert "held" not in records.hold(NEW, {"served": NEW}, refusals), "it serves from it already"
    assert "held" not in records.hold(NEW, {}, refusals), "it has nothing to go on with"
    assert "held" not in records.hold({**NEW, "replica_of": "b"}, {"served": OLD}, refusals), "another runtime"
    assert "held" not in records.hold({**NEW, "image": "demo 3"}, {"served": OLD}, refusals)


def test_differences_are_told_in_words() -> None:
    before = {"image": "demo 1", "cpu_count": 2, "devices": [], "cpus": [0, 1]}
    after = {"image": "demo 2", "cpu_count": 4, "cpus": [], "memory": "size=1G"}
    assert records.differences(before, after) == [
        "image demo 1 -> demo 2",
        "CPUs 2 -> 4",
        "memory none -> size=1G",
        "the host's CPUs 0,1 -> none",
    ]
