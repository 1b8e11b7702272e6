"""A snapshot is whole or not there, says what it is, and goes when newer ones are enough."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping import (
    identity,
    member,
    snapshots,
    taking,
    tools,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.errors import KeepingError
from tests.unit.kubernetes_keeping.conftest import KEYS, Host

TAKEN = 1_790_000_000
SNAPSHOT = snapshots.Snapshot(
    name=snapshots.name_of(TAKEN, "control-1"),
    created=TAKEN,
    member="control-1",
    sha256="0" * 64,
    size=3,
    revision=100,
    keys=3,
    etcd_version="3.4.23",
    kubernetes_version="1.20.2",
    marks=("ca.crt sha256:" + "a" * 64,),
    encryption=(),
    reason="timer",
)


def given_settings(host: Host, **more: int) -> taking.Settings:
    return taking.Settings(host.directory / "snapshots", tools=host.tool(), **more)


def take(host: Host, now: int = TAKEN, **more: int) -> snapshots.Snapshot:
    return taking.take(given_settings(host, **more), "test", host.root, now)


def test_a_member_is_read_from_its_static_pod(host: Host) -> None:
    found = member.read(host.root)
    assert (found.name, found.data_directory) == ("control-1", "/var/lib/etcd")
    assert found.client_url.startswith("http://127.0.0.1:")
    assert found.etcd_version == "3.4.13"


def test_a_host_without_etcd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeepingError, match="name a member of the control plane"):
        member.read(tmp_path)


@pytest.mark.parametrize("missing", ["name", "data-dir", "initial-advertise-peer-urls"])
def test_a_static_pod_that_lacks_an_argument_is_refused(host: Host, missing: str) -> None:
    path = host.manifests / "etcd.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if f"--{missing}=" not in line))
    with pytest.raises(KeepingError, match=f"no argument --{missing}"):
        member.read(host.root)


def test_a_snapshot_says_what_it_is_and_is_roots_alone(host: Host) -> None:
    taken = take(host)
    path = host.directory / "snapshots" / taken.name
    assert path.read_text() == "100"
    assert (taken.revision, taken.keys, taken.kubernetes_version, taken.reason) == (100, 3, "1.20.2", "test")
    assert snapshots.check(path) == taken
    assert len(taken.marks) == 3
    assert len(taken.encryption) == 2
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path, snapshots.beside(path))}
    assert set(modes.values()) == {0o700, 0o600}
    assert sorted(each.name for each in path.parent.iterdir()) == [path.with_suffix(".db").name, f"{path.stem}.json"]


def test_no_key_is_written_beside_it(host: Host) -> None:
    taken = take(host)
    text = snapshots.beside(host.directory / "snapshots" / taken.name).read_text()
    assert not any(key in text for key in KEYS)


def test_a_member_without_a_leader_gives_none(host: Host) -> None:
    host.etcd("down")
    with pytest.raises(KeepingError, match="etcd is not healthy: context deadline exceeded"):
        take(host)
    assert not list((host.directory).glob("snapshots/*"))


def test_a_broken_copy_leaves_nothing(host: Host) -> None:
    take(host)
    tool = Path(host.tool()) / "etcdctl"
    tool.write_text(tool.read_text().replace("stream.write(text)", 'stream.write("half")'))
    given = taking.Settings(host.directory / "snapshots", tools=str(tool.parent))
    with pytest.raises(KeepingError, match="is no whole snapshot"):
        taking.take(given, "test", host.root, TAKEN + 1)
    assert len(list(given.directory.iterdir())) == 2


def test_a_full_disk_is_said_before_it_is_full(host: Host) -> None:
    given = taking.Settings(host.directory / "snapshots", tools=host.tool(size=1 << 60))
    with pytest.raises(KeepingError, match="make room there"):
        taking.take(given, "test", host.root, TAKEN)


def test_what_a_killed_run_left_goes_with_the_next(host: Host) -> None:
    directory = host.directory / "snapshots"
    directory.mkdir()
    (directory / ".etcd-20260101T000000Z-control-1.db.partial").write_text("half")
    (directory / "etcd-20260101T000000Z-control-1.db").write_text("without what is beside it")
    take(host)
    taking.prune(given_settings(host), TAKEN)
    assert len(snapshots.there(directory)) == 1
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize(("content", "why"), [("10", "has 2 bytes"), ("101", "SHA-256")])
def test_a_changed_snapshot_is_refused(host: Host, content: str, why: str) -> None:
    taken = take(host)
    path = host.directory / "snapshots" / taken.name
    path.write_text(content)
    with pytest.raises(KeepingError, match=why):
        snapshots.check(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', json.dumps({"format": 1, "name": "../etc/shadow", "created": 0})]
)
def test_what_does_not_describe_a_snapshot_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(KeepingError, match="does not describe a snapshot") as error:
        snapshots.parse(text, "there")
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_again() -> None:
    assert snapshots.parse(snapshots.text_of(SNAPSHOT), "there") == SNAPSHOT


def aged(days: float) -> snapshots.Snapshot:
    created = TAKEN - int(days * 86400)
    return replace(SNAPSHOT, created=created, name=snapshots.name_of(created, "control-1"))


def test_retention_is_by_count_and_by_age() -> None:
    known = [aged(days) for days in (0, 1, 2, 3, 40)]
    assert snapshots.superfluous(known, TAKEN, 3, 0) == [aged(3), aged(40)]
    assert snapshots.superfluous(known, TAKEN, 10, 30) == [aged(40)]
    assert snapshots.superfluous(known, TAKEN, 2, 1) == [aged(2), aged(3), aged(40)]


@given(st.sets(st.integers(0, 1000), max_size=20), st.integers(1, 20), st.integers(0, 500))
def test_the_newest_is_always_kept(days: set[int], count: int, age: int) -> None:
    known = [aged(each) for each in days]
    gone = snapshots.superfluous(known, TAKEN, count, age)
    assert len(known) - len(gone) <= count
    assert not known or max(known, key=lambda each: each.created) not in gone


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (3599, "59 min"), (7500, "2 h 5 min"), (180000, "2 d 2 h")]
)
def test_an_age_is_said_as_a_person_says_it(seconds: int, text: str) -> None:
    assert snapshots.age(seconds) == text


def test_another_cluster_is_told_by_its_keys(host: Host, other: Host) -> None:
    here, there = identity.of_host(host.root), identity.of_host(other.root)
    assert identity.difference(here, here.marks, here.encryption) == ""
    assert "snapshot of another cluster" in identity.difference(here, there.marks, there.encryption)
    # After an exchange of the authorities the service accounts' key is still the same.
    assert identity.difference(here, [mark for mark in here.marks if mark.startswith("sa.pub")], ()) == ""


def test_a_key_that_is_gone_is_said_before_secrets_cannot_be_read(host: Host) -> None:
    before = identity.of_host(host.root)
    path = host.root / "etc/kubernetes/encryption.yaml"
    path.write_text(path.read_text().replace(KEYS[1], KEYS[1].replace("c2", "c3")))
    assert "add that key there first" in identity.difference(
        identity.of_host(host.root), before.marks, before.encryption
    )


def test_a_host_without_keys_cannot_say_whose_it_is(host: Host) -> None:
    for path in (host.root / "etc/kubernetes/pki").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(KeepingError, match="put the control plane's keys back first"):
        identity.of_host(host.root)


def test_missing_tools_are_said(tmp_path: Path) -> None:
    with pytest.raises(KeepingError, match="install Debian's etcd-client"):
        tools.find(str(tmp_path))


@pytest.mark.parametrize(
    ("program", "etcd", "fits"), [("3.4.23", "3.4.13", True), ("3.5.16", "3.4.13", False), ("3.5.1", "", True)]
)
def test_a_data_directory_is_made_by_a_program_of_the_same_minor_version(program: str, etcd: str, fits: bool) -> None:
    assert (tools.unfit(program, etcd) == "") is fits
