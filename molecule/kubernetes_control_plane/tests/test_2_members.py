"""Two members join the first; the one that has the address hangs, and the API answers on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hosts import hanging, of_run
from playing import wait_for

testinfra_hosts = ["ansible://control1"]
MEMBERS = ["control1", "control2", "control3"]
ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
    "--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key"
)
FETCH = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
print(urllib.request.urlopen("https://%s/readyz" % sys.argv[1], timeout=5, context=context).read().decode())
"""


def endpoint(host: Any) -> str:
    """The address and port of the cluster, as a node knows it."""
    return str(host.check_output("sed -n 's#.*server: https://##p' /etc/kubernetes/kubelet.conf"))


def holders(address: str) -> list[str]:
    """The members that have the address."""
    return [name for name in MEMBERS if f" {address}/" in of_run(name).check_output("ip -oneline address")]


def answers(address_and_port: str) -> bool:
    """Whether a node gets an answer there."""
    return of_run("node1").run("python3 -c %s %s", FETCH, address_and_port).stdout.strip() == "ok"


def test_two_more_members_join(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    grown = converge_again({"members": MEMBERS}, "--limit=control_plane", timeout=1800)
    assert grown.returncode == 0, grown.output
    assert all(cluster.is_ready(name) for name in MEMBERS)
    listed = host.check_output(f"{ETCDCTL} member list").splitlines()
    assert sorted(line.split(", ")[2] for line in listed) == MEMBERS
    assert all(cluster.get("--namespace=vllmd-registration", "configmap", name)["data"]["identity"] for name in MEMBERS)
    assert not cluster.tokens()
    assert "kubeadm-certs" not in cluster.kubectl("--namespace=kube-system", "get", "secrets", "--output=name")


def test_all_members_have_the_same_key() -> None:
    sums = {of_run(name).check_output("sha256sum < /etc/kubernetes/apiserver/encryption.yaml") for name in MEMBERS}
    assert len(sums) == 1


def test_another_run_changes_nothing(converge_again: Callable[..., Any]) -> None:
    again = converge_again({"members": MEMBERS}, "--limit=control_plane", timeout=1800)
    assert (again.returncode, again.changed) == (0, 0), again.output


def test_the_api_answers_on_when_the_member_with_the_address_hangs(cluster: Any) -> None:
    where = endpoint(of_run("node1"))
    address = where.rpartition(":")[0]
    (holder,) = holders(address)
    with hanging(holder):
        others = [name for name in MEMBERS if name != holder]
        wait_for(lambda: answers(where), "the API answers at its address", 60)
        survivor = type(cluster)(of_run(others[0]))
        written = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"written-without-{holder}"}}
        # Until HAProxy has noticed it, a request may still go to the one that hangs.
        wait_for(lambda: survivor.apply(written) is None, "the others write", 60)
    wait_for(lambda: len(holders(address)) == 1, "one member has the address", 60)
    wait_for(lambda: all(cluster.is_ready(name) for name in MEMBERS), "all members are ready", 180)
