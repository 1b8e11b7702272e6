"""A member that is lost for good is struck off by hand, as docs/control-plane.md says; a new host takes its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster import Cluster
from hosts import hanging, of_run
from playing import wait_for
from registration import NAMESPACE

testinfra_hosts = ["ansible://control1"]
MEMBERS = ["control1", "control2", "control3"]
ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
    "--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key"
)


def members(host: Any) -> dict[str, str]:
    """The members of etcd, name to number."""
    lines = [line.split(", ") for line in host.check_output(f"{ETCDCTL} member list").splitlines()]
    return {fields[2]: fields[0] for fields in lines}


def test_the_others_go_on_without_it(host: Any, cluster: Cluster) -> None:
    with hanging("control3"):
        wait_for(lambda: not cluster.is_ready("control3"), "it is missed", 120)
        host.check_output(f"{ETCDCTL} member remove {members(host)['control3']}")
        wait_for(lambda: cluster.kubectl("delete", "node", "control3", "--ignore-not-found") or True, "it is no node")
        cluster.kubectl(f"--namespace={NAMESPACE}", "delete", "configmap", "control3")
        assert set(members(host)) == {"control1", "control2"}
        assert set(cluster.nodes()) == {"control1", "control2", "node1"}


def test_a_new_host_of_its_name_joins(host: Any, cluster: Cluster, converge_again: Callable[..., Any]) -> None:
    of_run("control3").check_output("kubeadm reset --force")
    grown = converge_again({"members": MEMBERS}, "--limit=control_plane", timeout=1800)
    assert grown.returncode == 0, grown.output
    assert set(members(host)) == set(MEMBERS)
    assert all(cluster.is_ready(name) for name in MEMBERS)
