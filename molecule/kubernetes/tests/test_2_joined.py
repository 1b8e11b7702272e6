"""After converge: the node is the cluster's, with Kubernetes' own programs, and runs pods."""

from __future__ import annotations

from typing import Any

import pytest

testinfra_hosts = ["ansible://nodes"]
FETCH = """
import urllib.request
print(urllib.request.urlopen("http://%s:8080/busybox", timeout=10).status)
"""


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    """The node's name."""
    return str(host.backend.hostname)


def test_the_node_is_ready_with_the_control_planes_version(cluster: Any, name: str) -> None:
    assert cluster.is_ready(name)
    node = cluster.nodes()[name]["status"]["nodeInfo"]
    said = cluster.host.check_output("kubelet --version")
    assert said == f"Kubernetes {node['kubeletVersion']}"
    assert node["containerRuntimeVersion"].startswith("containerd://")


def test_the_kubelet_has_a_certificate_of_its_own(host: Any, name: str) -> None:
    subject = host.check_output(
        "openssl x509 -noout -subject -in /var/lib/kubelet/pki/kubelet-client-current.pem -nameopt RFC2253"
    )
    assert subject == f"subject=CN=system:node:{name},O=system:nodes"
    assert not host.file("/etc/kubernetes/bootstrap-kubelet.conf").exists


def test_a_pod_runs_and_answers(host: Any, cluster: Any, name: str) -> None:
    address = cluster.run_pod("web", name, "httpd", "-f", "-p", "8080", "-h", "/bin")
    assert host.check_output("python3 -c %s", FETCH % address) == "200"
    assert cluster.kubectl("exec", "web", "--", "busybox", "hostname") == "web"
    cluster.kubectl("delete", "pod", "web")


def test_its_labels_say_what_the_host_has(host: Any, cluster: Any, name: str) -> None:
    labels = cluster.nodes()[name]["metadata"]["labels"]
    ours = {key: value for key, value in labels.items() if key.partition("/")[0].endswith("vllmd.com")}
    domains = host.check_output("ls --directory /sys/devices/system/node/node[0-9]* | wc --lines")
    assert ours == {"accelerator.vllmd.com/count": "0", "host.vllmd.com/numa-nodes": domains}
