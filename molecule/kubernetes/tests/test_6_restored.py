"""The cluster comes back from a snapshot after etcd's data directory is gone, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playing import play, wait_for

testinfra_hosts = ["ansible://control_plane"]
DIRECTORY = "/var/lib/vllmd/etcd-snapshots"
NAMESPACE = "kept"
COUNT = 50
#: Within the data directory where that is a disk of its own, as it is here.
KEPT = "find /var/lib -maxdepth 2 -name 'etcd.before-*' -prune"


def names(cluster: Any) -> set[str]:
    """The objects of the namespace that are ours; what the controller manager puts there comes when it likes."""
    found = cluster.kubectl(f"--namespace={NAMESPACE}", "get", "configmaps", "--output=name").split()
    return set(found) - {"configmap/kube-root-ca.crt"}


@pytest.fixture(scope="module")
def snapshot(host: Any, cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A snapshot with COUNT objects of ours in it, taken by backup.yml; its name, and where the copy is."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"object-{number}", "namespace": NAMESPACE},
            "data": {"number": str(number)},
        }
        for number in range(COUNT)
    ]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply({"apiVersion": "v1", "kind": "List", "items": items})
    directory = tmp_path_factory.mktemp("backups")
    done = play("backup", backup_fetch=str(directory))
    assert done.returncode == 0, done.stdout
    newest = json.loads(host.check_output("vllmd-etcd-snapshot --list"))[0]
    assert newest["reason"] == "backup"
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [newest["name"], newest["name"].removesuffix(".db") + ".json"]
    )
    return newest["name"], directory


def test_a_dry_run_says_what_would_be_lost(host: Any, snapshot: tuple[str, Path]) -> None:
    done = play("restore", "--check", restore_snapshot=snapshot[0])
    assert done.returncode == 0, done.stdout
    assert "old: what was written since is lost, and what was deleted since comes back (" in done.stdout
    assert host.file("/etc/kubernetes/manifests/etcd.yaml").exists


def test_a_changed_snapshot_is_refused(host: Any, snapshot: tuple[str, Path]) -> None:
    path = f"{DIRECTORY}/{snapshot[0]}"
    host.check_output(f"cp -p {path} /root/kept.db && printf x | dd of={path} bs=1 seek=5000 conv=notrunc")
    try:
        done = play("restore", restore_snapshot=snapshot[0])
    finally:
        host.check_output(f"mv /root/kept.db {path}")
    assert done.returncode != 0
    assert "when taken; take another one" in done.stdout


def test_a_snapshot_of_another_cluster_is_refused(host: Any, snapshot: tuple[str, Path], tmp_path: Path) -> None:
    for path in snapshot[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = tmp_path / (snapshot[0].removesuffix(".db") + ".json")
    other = {**json.loads(about.read_text()), "marks": ["ca.crt sha256:" + "0" * 64]}
    about.write_text(json.dumps(other))
    done = play("restore", restore_snapshot=str(tmp_path / snapshot[0]))
    assert done.returncode != 0
    assert "it is a snapshot of another cluster" in done.stdout
    assert host.file("/etc/kubernetes/manifests/etcd.yaml").exists


def test_one_that_is_not_there_is_refused_with_those_that_are(snapshot: tuple[str, Path]) -> None:
    done = play("restore", restore_snapshot="etcd-20200101T000000Z-control1.db")
    assert done.returncode != 0
    assert f"there are {snapshot[0]}" in done.stdout


def test_everything_is_back_after_the_data_directory_was_deleted(
    host: Any, cluster: Any, snapshot: tuple[str, Path]
) -> None:
    before = names(cluster)
    cluster.kubectl(f"--namespace={NAMESPACE}", "delete", "configmap", "object-0")
    cluster.kubectl(f"--namespace={NAMESPACE}", "create", "configmap", "later")
    host.check_output("rm -rf /var/lib/etcd/* && pkill --signal KILL --exact etcd")
    done = play("restore", restore_snapshot=snapshot[0])
    assert done.returncode == 0, done.stdout
    wait_for(lambda: cluster.is_ready("control1") and cluster.is_ready("node1"), "nodes are ready", 180)
    assert names(cluster) == before
    assert len([name for name in before if "/object-" in name]) == COUNT
    for member in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        assert host.file(f"/etc/kubernetes/manifests/{member}.yaml").exists
    assert not host.file("/var/lib/vllmd/runtime-controller/restore").exists


def test_what_was_there_is_kept(host: Any, cluster: Any, snapshot: tuple[str, Path]) -> None:
    cluster.kubectl(f"--namespace={NAMESPACE}", "create", "configmap", "later")
    before = set(host.check_output(KEPT).split())
    done = play("restore", restore_snapshot=str(snapshot[1] / snapshot[0]))
    assert done.returncode == 0, done.stdout
    kept = set(host.check_output(KEPT).split()) - before
    assert len(kept) == 1
    assert host.file(f"{kept.pop()}/member/snap/db").exists
    wait_for(lambda: "configmap/later" not in names(cluster), "the later object is gone", 60)


def test_pods_run_after_it(host: Any, cluster: Any) -> None:
    cluster.run_pod("after", "node1", "sleep", "60")
    cluster.kubectl("delete", "pod", "after", "--wait=false")
    host.check_output(f"{KEPT} -exec rm -r {{}} +")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
