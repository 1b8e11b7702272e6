"""What kubeadm is given for a control plane in each version of its API, and the order of what a cluster gets then."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import components, control_plane, versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError

PIN = f"sha256:{64 * 'a'}"
TOKEN = "abcdef.0123456789abcdef"
KEY = 64 * "0"
CLUSTER = control_plane.Cluster(
    endpoint="10.0.0.10:8443",
    pod_subnet="10.244.0.0/16",
    sans=["10.0.0.10", "api.example.com", "10.0.0.10"],
    arguments={"apiServer": {"profiling": "true", "v": 2}},
    audit={"days": 7, "files": 3, "mib": 50},
    kubelet={"cgroupDriver": "systemd"},
)
MEMBER = control_plane.Member(
    name="control-01",
    address="10.0.0.11",
    kubelet_arguments={"node-ip": "10.0.0.11"},
    ignored=["NumCPU"],
    patches="/patches",
)


def init(version: str, **secrets: str) -> dict[str, dict[str, Any]]:
    """The documents for ``kubeadm init`` by kind."""
    documents = control_plane.initialization(CLUSTER, MEMBER, versions.parse(version), **secrets)
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize(
    ("version", "api", "is_list"),
    [
        ("1.20.2", "v1beta2", False),
        ("1.30.1", "v1beta3", False),
        ("1.31.0", "v1beta4", True),
        ("1.37.0", "v1beta4", True),
    ],
)
def test_each_version_gets_the_configuration_that_it_reads(version: str, api: str, is_list: bool) -> None:
    found = init(version)
    for kind in ("InitConfiguration", "ClusterConfiguration"):
        assert found[kind]["apiVersion"] == f"kubeadm.k8s.io/{api}"
    given = found["ClusterConfiguration"]["apiServer"]["extraArgs"]
    assert isinstance(given, list) == is_list
    by_name = {each["name"]: each["value"] for each in given} if is_list else given
    assert by_name["encryption-provider-config"] == "/etc/kubernetes/apiserver/encryption.yaml"
    assert by_name["audit-log-maxage"] == "7"
    assert (by_name["profiling"], by_name["v"]) == ("true", "2"), "the operator's word counts"
    assert found["KubeletConfiguration"]["apiVersion"] == "kubelet.config.k8s.io/v1beta1"
    socket = found["InitConfiguration"]["nodeRegistration"]["criSocket"]
    assert socket.startswith("unix://") == (api != "v1beta2")


@pytest.mark.parametrize(
    ("version", "known"), [("1.20.2", False), ("1.22.9", False), ("1.23.0", True), ("1.33.1", True)]
)
def test_pod_security_is_configured_where_it_is_known(version: str, known: bool) -> None:
    given = init(version)["ClusterConfiguration"]["apiServer"]["extraArgs"]
    names = {each["name"] for each in given} if isinstance(given, list) else set(given)
    assert ("admission-control-config-file" in names) == known


def test_names_of_the_certificate_are_there_once() -> None:
    assert init("1.33.1")["ClusterConfiguration"]["apiServer"]["certSANs"] == ["10.0.0.10", "api.example.com"]


def test_every_file_that_the_api_server_reads_is_mounted() -> None:
    server = init("1.33.1")["ClusterConfiguration"]["apiServer"]
    mounted = tuple(volume["mountPath"] for volume in server["extraVolumes"])
    paths = [each["value"] for each in server["extraArgs"] if each["value"].startswith("/")]
    assert len(paths) == 4
    assert not [path for path in paths if not path.startswith(mounted)]


def test_kubeadms_own_token_is_replaced_by_a_short_lived_one() -> None:
    (token,) = init("1.33.1", token=TOKEN)["InitConfiguration"]["bootstrapTokens"]
    assert (token["token"], token["ttl"]) == (TOKEN, "15m0s")


@pytest.mark.parametrize("version", ["1.20.2", "1.30.1", "1.33.1"])
def test_a_further_member_joins_by_the_pin(version: str) -> None:
    document = control_plane.joining_member(
        CLUSTER.endpoint, MEMBER, versions.parse(version), token=TOKEN, pins=[PIN], certificate_key=KEY
    )
    discovery = document["discovery"]["bootstrapToken"]
    assert discovery["caCertHashes"] == [PIN]
    assert discovery["unsafeSkipCAVerification"] is False
    assert document["controlPlane"] == {
        "localAPIEndpoint": {"advertiseAddress": "10.0.0.11", "bindPort": 6443},
        "certificateKey": KEY,
    }
    assert "taints" not in document["nodeRegistration"], "kubeadm's own taints for members"


def test_no_pin_is_refused() -> None:
    with pytest.raises(NodeError, match="no pin"):
        control_plane.joining_member(
            CLUSTER.endpoint, MEMBER, versions.parse("1.33.1"), token=TOKEN, pins=[], certificate_key=KEY
        )


def test_arguments_of_an_unknown_component_are_refused() -> None:
    cluster = control_plane.Cluster(endpoint="10.0.0.10:8443", arguments={"etcd": {"v": 1}})
    with pytest.raises(NodeError, match="arguments of etcd: components are"):
        control_plane.cluster_configuration(cluster, versions.parse("1.33.1"))


def names(*given: dict[str, Any]) -> list[str]:
    """The names of the components in order."""
    return [each["name"] for each in components.ordered(given)]


def test_components_come_after_what_they_need_else_as_they_are_given() -> None:
    plugin = {"name": "device-plugin", "after": ["runtime-class", "network"]}
    assert names(plugin, {"name": "network"}, {"name": "dns", "after": ["network"]}, {"name": "runtime-class"}) == [
        "network",
        "dns",
        "runtime-class",
        "device-plugin",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}], "components a, b: each comes after another"),
        ([{"name": "a", "after": ["b"]}], "it comes after b, which is no component"),
        ([{"name": "a"}, {"name": "a"}], "component a is there twice"),
        ([{"name": "A b"}], "write a name of a-z"),
        ([{"name": "a", "wait": ["daemonset/cilium"]}], "write KIND/NAMESPACE/NAME"),
        ([{"name": "a", "wait": ["secret/kube-system/x"]}], "kinds are crd, daemonset"),
    ],
)
def test_components_that_cannot_be_ordered_are_refused(given: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(NodeError, match=said):
        components.ordered(given)


@pytest.mark.parametrize(
    ("text", "said", "arguments"),
    [
        ("daemonset/kube-system/cilium", "daemonset kube-system/cilium", ["rollout", "status", "daemonset/cilium"]),
        ("node/gpu-01", "node gpu-01", ["wait", "--for=condition=Ready", "node/gpu-01"]),
        (
            "crd/pools.example.com",
            "crd pools.example.com",
            ["wait", "--for=condition=Established", "crd/pools.example.com"],
        ),
    ],
)
def test_what_is_waited_for_is_said_and_asked_for(text: str, said: str, arguments: list[str]) -> None:
    wait = components.parse_wait(text)
    assert str(wait) == said
    assert wait.arguments(60)[:3] == arguments
    assert "--timeout=60s" in wait.arguments(60)
