"""A node leaves, is refused for what it must not join with, and joins again; the other node is never touched."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["ansible://node2"]
NAME, OTHER = "node2", "node1"
TRACES = ("/etc/kubernetes/kubelet.conf", "/etc/kubernetes/pki/ca.crt", "/var/lib/kubelet/config.yaml")


@pytest.fixture(autouse=True)
def unharmed(cluster: Any) -> Any:
    """Whatever a test does to one node, the other is the same, and ready."""
    before = cluster.nodes()[OTHER]["metadata"]["uid"]
    yield
    assert cluster.is_ready(OTHER)
    assert cluster.nodes()[OTHER]["metadata"]["uid"] == before


def test_it_leaves(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    left = converge_again({"kubernetes_node_state": "left"})
    assert left.returncode == 0, left.output
    assert NAME not in cluster.nodes()
    assert not [path for path in TRACES if host.file(path).exists]
    again = converge_again({"kubernetes_node_state": "left"})
    assert (again.returncode, again.changed) == (0, 0), again.output


def test_another_clusters_pin_is_refused(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    refused = converge_again({"kubernetes_node_ca_pins": ["sha256:" + 64 * "0"]})
    assert refused.returncode != 0
    assert "is not the one that is pinned" in refused.output, refused.output
    assert NAME not in cluster.nodes()
    assert not [path for path in TRACES if host.file(path).exists]


def test_no_pin_is_refused(cluster: Any, converge_again: Callable[..., Any]) -> None:
    refused = converge_again({"kubernetes_node_ca_pins": []})
    assert refused.returncode != 0
    assert "kubernetes_node_ca_pins is empty" in refused.output, refused.output
    assert NAME not in cluster.nodes()


def test_an_expired_token_is_refused(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    token = cluster.token(ttl="1s")
    time.sleep(2)
    refused = converge_again({"kubernetes_node_token": token})
    assert refused.returncode != 0
    assert "is unknown at" in refused.output, refused.output
    assert token not in refused.output
    assert NAME not in cluster.nodes()
    assert not [path for path in TRACES if host.file(path).exists]


def test_the_name_of_another_node_is_refused(cluster: Any, converge_again: Callable[..., Any]) -> None:
    refused = converge_again({"kubernetes_node_name": OTHER})
    assert refused.returncode != 0
    assert f"node name: the cluster has a node {OTHER}" in refused.output, refused.output
    assert NAME not in cluster.nodes()


def test_a_token_is_good_for_one_join(host: Any, cluster: Any, converge_again: Callable[..., Any]) -> None:
    token = cluster.token(ttl="60m")
    joined = converge_again({"kubernetes_node_token": token})
    assert joined.returncode == 0, joined.output
    left = converge_again({"kubernetes_node_state": "left"})
    assert left.returncode == 0, left.output
    refused = converge_again({"kubernetes_node_token": token, "kubernetes_node_join_timeout": 60})
    assert refused.returncode != 0
    assert f"bootstrap token {token.partition('.')[0]} was used for node {NAME}" in refused.output, refused.output
    assert token not in refused.output
    assert NAME not in cluster.nodes()
    assert not [path for path in TRACES if host.file(path).exists]
    cluster.kubectl("--namespace=kube-system", "delete", "secret", f"bootstrap-token-{token.partition('.')[0]}")


def test_it_joins_again_and_no_other_host_is_touched(cluster: Any, converge_again: Callable[..., Any]) -> None:
    joined = converge_again({})
    assert joined.returncode == 0, joined.output
    assert cluster.is_ready(NAME)
    assert not cluster.tokens(), "a token outlived the join that it was made for"
    tasks = dict(re.findall(r"^(\S+) +: ok=(\d+)", joined.output, re.MULTILINE))
    assert set(tasks) == {NAME}, "hosts that tasks were run for"
    assert set(re.findall(rf"\[{NAME} -> (\w+)", joined.output)) == {"control1"}, "hosts that were asked for it"


def test_a_run_over_all_nodes_changes_none(converge_again: Callable[..., Any]) -> None:
    again = converge_again({}, "--limit=nodes")
    assert (again.returncode, again.changed) == (0, 0), again.output
