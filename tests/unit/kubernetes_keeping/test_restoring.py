"""A restore is refused before anything is touched, keeps what was there, and goes on where it was interrupted."""

from __future__ import annotations

import fcntl
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping import member, snapshots, taking, tools
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.errors import KeepingError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.restoring import Restore, loss
from tests.unit.kubernetes_keeping.conftest import Host
from tests.unit.kubernetes_keeping.test_snapshots import SNAPSHOT, TAKEN, take

STEPS = ("prepare", "stop", "swap", "start", "end")


def peers(host: Host) -> dict[str, str]:
    here = member.read(host.root, host.root / "var/lib/vllmd/runtime-controller/restore/manifests")
    return {here.name: here.peer_url}


def path_of(host: Host, snapshot: snapshots.Snapshot) -> Path:
    return host.directory / "snapshots" / snapshot.name


def go(host: Host, snapshot: snapshots.Snapshot, *steps: str) -> list[bool]:
    """Take steps, each with a new object, as the module does."""
    did = []
    for step in steps:
        restore = Restore(host.root)
        if step == "prepare":
            did.append(restore.prepare(path_of(host, snapshot), snapshot, tools.find(host.tool()), peers(host)))
        elif step == "start":
            did.append(restore.start(member.COMPONENTS))
        else:
            did.append(restore.stop(0) if step == "stop" else restore.swap() if step == "swap" else restore.end())
    return did


def refusals(host: Host, snapshot: snapshots.Snapshot) -> str:
    return "; ".join(Restore(host.root).refusals(snapshot, tools.find(host.tool()), peers(host)))


def test_the_snapshot_comes_back_and_what_was_there_is_kept(host: Host) -> None:
    taken = take(host)
    assert refusals(host, taken) == ""
    assert go(host, taken, *STEPS) == [True] * 5
    assert (host.data / "member/snap/db").read_text() == "100"
    kept = list(host.data.parent.glob("etcd.before-*"))
    assert [(each / "member/snap/db").read_text() for each in kept] == ["old"]
    assert sorted(path.stem for path in host.manifests.iterdir()) == sorted(member.COMPONENTS)
    assert not list(host.data.parent.glob(".etcd*"))


def test_it_comes_back_where_the_data_directory_is_gone(host: Host) -> None:
    taken = take(host)
    (host.data / "member/snap/db").unlink()
    for path in sorted(host.data.rglob("*"), reverse=True):
        path.rmdir()
    host.data.rmdir()
    host.etcd("down")
    assert refusals(host, taken) == ""
    host.etcd("1")
    go(host, taken, *STEPS)
    assert (host.data / "member/snap/db").read_text() == "100"
    assert not list(host.data.parent.glob("etcd.before-*"))


def test_no_step_is_taken_twice(host: Host) -> None:
    taken = take(host)
    assert go(
        host, taken, "prepare", "prepare", "stop", "stop", "swap", "prepare", "stop", "swap", "start", "start"
    ) == [
        *[True, False],
        *[True, False],
        *[True, False, False, False],
        *[True, False],
    ]


def test_a_step_out_of_its_order_is_refused(host: Host) -> None:
    taken = take(host)
    with pytest.raises(KeepingError, match="begin with its first step"):
        go(host, taken, "swap")
    go(host, taken, "prepare")
    with pytest.raises(KeepingError, match="stop the control plane's static pods first"):
        go(host, taken, "swap")


def test_an_etcd_that_does_not_stop_keeps_its_data(host: Host) -> None:
    taken = take(host)
    with (host.data / "member/snap/db").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(KeepingError, match="still runs, see 'systemctl status kubelet', after 0 s: a process with"):
            go(host, taken, "prepare", "stop")
    assert (host.data / "member/snap/db").read_text() == "old"
    assert Restore(host.root).abandon()
    assert sorted(path.stem for path in host.manifests.iterdir()) == sorted(member.COMPONENTS)
    assert not list(host.data.parent.glob(".etcd*"))


def test_an_etcd_that_listens_is_not_stopped(host: Host) -> None:
    taken = take(host)
    url = urlsplit(member.read(host.root).client_url)
    listening = socket.create_server((str(url.hostname), int(url.port or 0)))
    with listening, pytest.raises(KeepingError, match="etcd's clients at http"):
        go(host, taken, "prepare", "stop")


def test_nothing_is_abandoned_after_the_swap(host: Host) -> None:
    taken = take(host)
    go(host, taken, "prepare", "stop", "swap")
    assert not Restore(host.root).abandon()
    assert not list(host.manifests.iterdir())


def test_another_snapshot_can_be_taken_until_the_swap(host: Host) -> None:
    first = take(host)
    go(host, first, "prepare", "stop")
    host.etcd("90")
    second = taking_second(host)
    assert refusals(host, second) == ""
    go(host, second, "prepare", "stop", "swap")
    assert (host.data / "member/snap/db").read_text() == "90"
    assert f"the restore of {second.name} has not ended here" in refusals(host, first)


def taking_second(host: Host) -> snapshots.Snapshot:
    """Another snapshot, while the static pods are aside."""
    manifests, aside = host.manifests, host.root / "var/lib/vllmd/runtime-controller/restore/manifests"
    manifests.rmdir()
    aside.rename(manifests)
    found = take(host, TAKEN + 60)
    manifests.rename(aside)
    manifests.mkdir()
    return found


def test_a_snapshot_of_another_cluster_is_refused(host: Host, other: Host) -> None:
    assert "it is a snapshot of another cluster" in refusals(host, take(other))


def test_a_program_of_another_etcd_is_refused(host: Host) -> None:
    taken = take(host)
    found = tools.find(host.tool(version="3.5.16"))
    lines = Restore(host.root).refusals(taken, found, peers(host))
    assert "name it (runtime_controller_etcd_tools)" in lines[0]


def test_a_member_that_is_not_restored_with_the_others_is_refused(host: Host) -> None:
    found = Restore(host.root).refusals(take(host), tools.find(host.tool()), {"control-2": "https://10.0.0.11:2380"})
    assert "is not among those that are restored" in found[0]


def test_revisions_go_on_where_the_program_can(host: Host) -> None:
    taken = take(host)
    Restore(host.root).prepare(
        path_of(host, taken), taken, tools.find(host.tool(more=" --bump-revision --mark-compacted")), peers(host)
    )
    assert host.calls()[-1].endswith("--bump-revision=1000000000 --mark-compacted")


def test_it_says_what_is_lost() -> None:
    assert loss(SNAPSHOT, TAKEN + 7500, 130).endswith(
        "2 h 5 min old: what was written since is lost, and what was deleted since comes back (30 changes)"
    )
    assert "changes" not in loss(SNAPSHOT, TAKEN + 7500)


def test_health_leaves_a_member_alone_meanwhile(host: Host) -> None:
    taken = take(host)
    go(host, taken, "prepare", "stop")
    path = host.root / "var/lib/vllmd/runtime-controller/maintenance.json"
    assert "a snapshot is brought back" in path.read_text()
    go(host, taken, "swap", "start", "end")
    assert not path.exists()


def test_the_settings_are_the_roles(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.json"
    with pytest.raises(KeepingError, match="role runtime_controller writes it"):
        taking.settings(path)
    path.write_text('{"directory": "/x", "count": 3, "days": 9, "tools": ""}')
    assert taking.settings(path) == taking.Settings(Path("/x"), 3, 9)
    path.write_text("{}")
    with pytest.raises(KeepingError, match="writes it anew"):
        taking.settings(path)
