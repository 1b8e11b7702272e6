"""After converge: one member's control plane with two nodes, and everything that protects it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

testinfra_hosts = ["ansible://control_plane"]
NODES = ("control1", "node1", "node2")
NAMESPACES = ("default", "vllmd")
VALUE = "only-etcd-and-the-api-server-know"
# A service's rules come to a node some moments after it.
FETCH = """
import sys, time, urllib.request
for second in range(20):
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=5).status)
        break
    except OSError as error:
        print(error, file=sys.stderr)
        time.sleep(1)
"""
# The network namespace of the pod with an address.
FIND = """for name in $(ip netns list | cut --delimiter=' ' --fields=1); do
    ip netns exec $name ip -4 -oneline address | grep --quiet --fixed-strings %s/ && echo $name; done"""
ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
    "--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key"
)


@pytest.fixture(scope="module")
def secret(cluster: Any) -> Iterator[str]:
    """A secret's name; it is there while the tests run."""
    data = {"word": base64.b64encode(VALUE.encode()).decode()}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "known"}, "data": data})
    yield "known"
    cluster.kubectl("delete", "secret", "known")


@pytest.mark.parametrize("name", NODES)
def test_every_node_is_ready(cluster: Any, name: str) -> None:
    assert cluster.is_ready(name)


def test_the_control_plane_is_kubeadms_static_pods(cluster: Any) -> None:
    parts = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    for part in parts:
        pod = cluster.get("--namespace=kube-system", "pod", f"{part}-control1")
        assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
        assert all(status["ready"] for status in pod["status"]["containerStatuses"])


def test_pods_of_two_nodes_reach_each_other_by_address_and_by_service(cluster: Any, node2: Any) -> None:
    address = cluster.run_pod("web", "node1", "httpd", "-f", "-p", "8080", "-h", "/bin")
    own = cluster.run_pod("client", "node2", "sleep", "3600")
    cluster.kubectl("label", "pod", "web", "app=web", "--overwrite")
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }
    )
    service = cluster.get("service", "web")["spec"]["clusterIP"]
    inside = f"ip netns exec {node2.check_output(FIND, own)}"
    for url in (f"http://{address}:8080/busybox", f"http://{service}/busybox"):
        assert node2.check_output(f"{inside} python3 -c %s %s", FETCH, url) == "200"
    cluster.kubectl("delete", "pod/web", "pod/client", "service/web")


def test_a_secret_is_encrypted_where_etcd_keeps_it(host: Any, secret: str) -> None:
    kept = host.check_output(f"{ETCDCTL} get /registry/secrets/default/{secret} --print-value-only | base64 --wrap=0")
    content = base64.b64decode(kept)
    assert content.startswith(b"k8s:enc:secretbox:v1:vllmd-1:")
    assert VALUE.encode() not in content


def test_every_secret_of_the_cluster_is_encrypted(host: Any, secret: str) -> None:
    keys = host.check_output(f"{ETCDCTL} get --prefix /registry/secrets/ --keys-only").split()
    assert f"/registry/secrets/default/{secret}" in keys
    plain = [
        key
        for key in keys
        if not host.check_output(f"{ETCDCTL} get {key} --print-value-only | head --bytes=16").startswith("k8s:enc:")
    ]
    assert not plain


def test_the_audit_log_says_who_touched_a_secret_and_not_what_is_in_it(host: Any, secret: str) -> None:
    log = "/var/log/kubernetes/audit/audit.log"
    lines = host.check_output(f"grep --fixed-strings '/secrets/{secret}' {log} || true").splitlines()
    lines += host.check_output(
        f"""grep '"resource":"secrets"' {log} | grep '"verb":"create"' | tail -n 5"""
    ).splitlines()
    events = [json.loads(line) for line in lines]
    named = [event for event in events if event["objectRef"].get("name") == secret]
    assert named
    assert {event["level"] for event in named} == {"Metadata"}
    assert not [event for event in events if "requestObject" in event or "responseObject" in event]
    encoded = base64.b64encode(VALUE.encode()).decode()
    assert host.run(f"grep --quiet --fixed-strings -e {VALUE} -e {encoded} {log}").rc == 1


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_namespace_denies_what_nobody_allows(cluster: Any, namespace: str) -> None:
    policies = {
        policy["metadata"]["name"]: policy["spec"]
        for policy in cluster.get(f"--namespace={namespace}", "networkpolicies")["items"]
    }
    assert set(policies) == {"default-deny", "allow-dns"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["allow-dns"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {53}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_namespace_says_what_its_pods_may_be(cluster: Any, namespace: str) -> None:
    labels = cluster.get("namespace", namespace)["metadata"]["labels"]
    wanted = {"enforce": "baseline", "audit": "restricted", "warn": "restricted"}
    assert {mode: labels[f"pod-security.kubernetes.io/{mode}"] for mode in wanted} == wanted


@pytest.mark.parametrize(
    "path", ["/etc/kubernetes/apiserver/encryption.yaml", "/etc/vllmd/runtime-controller/secrets.json"]
)
def test_the_key_is_for_root_alone(host: Any, path: str) -> None:
    file = host.file(path)
    assert (file.user, file.mode) == ("root", 0o600)


def test_nothing_is_left_that_a_stranger_could_join_with(host: Any, cluster: Any) -> None:
    assert not cluster.tokens()
    names = cluster.kubectl("--namespace=kube-system", "get", "secrets", "--output=name").split()
    assert "secret/kubeadm-certs" not in names
    assert not host.file("/run/vllmd-kubernetes-control-plane").exists
    assert not host.file("/var/lib/vllmd/runtime-controller/assembling").exists
