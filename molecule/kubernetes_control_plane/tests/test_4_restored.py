"""Three members come back from a snapshot after the data of all of them is gone."""

from __future__ import annotations

import json
from typing import Any

from hosts import of_run
from playing import play, wait_for

testinfra_hosts = ["ansible://control1"]
MEMBERS = ["control1", "control2", "control3"]
NAMESPACE = "kept"
COUNT = 50
ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
    "--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key"
)


def names(cluster: Any) -> set[str]:
    """The objects of the namespace that are ours; what the controller manager puts there comes when it likes."""
    found = cluster.kubectl(f"--namespace={NAMESPACE}", "get", "configmaps", "--output=name").split()
    return set(found) - {"configmap/kube-root-ca.crt"}


def test_everything_is_back_on_all_members(host: Any, cluster: Any) -> None:
    items = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"object-{number}", "namespace": NAMESPACE}}
        for number in range(COUNT)
    ]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply({"apiVersion": "v1", "kind": "List", "items": items})
    done = play("backup", members=MEMBERS)
    assert done.returncode == 0, done.stdout
    newest = json.loads(host.check_output("vllmd-etcd-snapshot --list"))[0]["name"]
    before = names(cluster)
    assert len([name for name in before if "/object-" in name]) == COUNT
    cluster.kubectl(f"--namespace={NAMESPACE}", "create", "configmap", "later")
    for name in MEMBERS:
        of_run(name).check_output("rm -rf /var/lib/etcd/* && pkill --signal KILL --exact etcd")
    done = play("restore", members=MEMBERS, restore_snapshot=newest)
    assert done.returncode == 0, done.stdout
    wait_for(lambda: all(cluster.is_ready(name) for name in (*MEMBERS, "node1")), "all nodes are ready", 240)
    assert names(cluster) == before
    listed = host.check_output(f"{ETCDCTL} member list").splitlines()
    assert sorted(line.split(", ")[2] for line in listed) == MEMBERS
    assert {line.split(", ")[1] for line in listed} == {"started"}


def test_all_members_have_the_same(cluster: Any) -> None:
    assert cluster.kubectl(f"--namespace={NAMESPACE}", "create", "configmap", "after")
    keys = f"{ETCDCTL} get --keys-only --prefix /registry/configmaps/{NAMESPACE}"
    assert len({of_run(name).check_output(keys) for name in MEMBERS}) == 1
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
