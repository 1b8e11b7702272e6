"""The configuration that each kubeadm reads, the same in a guest and on a host, and what kubeadm's errors mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import joining
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.joining import Join
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import Version
from tests.unit.guest.conftest import ELEMENTS, load

GUEST = load(ELEMENTS / "vllmd-kubernetes-node/static/usr/lib/vllmd/join.py")
TOKEN = "abcdef.0123456789abcdef"
PIN = "sha256:" + "a" * 64
JOIN = Join(
    endpoint="10.0.0.10:6443",
    token=TOKEN,
    pins=[PIN],
    name="gpu-1",
    labels={"vllmd.com/b": "2", "vllmd.com/a": "1"},
    taints=[{"key": "vllmd.com/accelerator", "value": "h100", "effect": "NoSchedule"}],
    arguments={"node-ip": "10.0.0.21"},
    ignored=["FileExisting-crictl"],
    patches="/etc/vllmd/patches",
    discovery_seconds=45,
)
#: In the shape of the examples in kubernetes.io's references of each version.
EXPECTED = {
    20: """
apiVersion: kubeadm.k8s.io/v1beta2
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: 10.0.0.10:6443
    token: abcdef.0123456789abcdef
    caCertHashes: [PIN]
    unsafeSkipCAVerification: false
  timeout: 45s
nodeRegistration:
  name: gpu-1
  criSocket: /run/containerd/containerd.sock
  ignorePreflightErrors: [FileExisting-crictl]
  kubeletExtraArgs:
    node-ip: 10.0.0.21
    node-labels: vllmd.com/a=1,vllmd.com/b=2
  taints:
  - {key: vllmd.com/accelerator, value: h100, effect: NoSchedule}
""",
    25: """
apiVersion: kubeadm.k8s.io/v1beta3
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: 10.0.0.10:6443
    token: abcdef.0123456789abcdef
    caCertHashes: [PIN]
    unsafeSkipCAVerification: false
  timeout: 45s
nodeRegistration:
  name: gpu-1
  criSocket: unix:///run/containerd/containerd.sock
  ignorePreflightErrors: [FileExisting-crictl]
  kubeletExtraArgs:
    node-ip: 10.0.0.21
    node-labels: vllmd.com/a=1,vllmd.com/b=2
  taints:
  - {key: vllmd.com/accelerator, value: h100, effect: NoSchedule}
patches:
  directory: /etc/vllmd/patches
""",
    31: """
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: 10.0.0.10:6443
    token: abcdef.0123456789abcdef
    caCertHashes: [PIN]
    unsafeSkipCAVerification: false
nodeRegistration:
  name: gpu-1
  criSocket: unix:///run/containerd/containerd.sock
  ignorePreflightErrors: [FileExisting-crictl]
  kubeletExtraArgs:
  - {name: node-ip, value: 10.0.0.21}
  - {name: node-labels, value: "vllmd.com/a=1,vllmd.com/b=2"}
  taints:
  - {key: vllmd.com/accelerator, value: h100, effect: NoSchedule}
patches:
  directory: /etc/vllmd/patches
timeouts:
  discovery: 45s
""",
}


@pytest.mark.parametrize(("minor", "same_as"), [(20, 20), (21, 20), (25, 25), (30, 25), (31, 31), (37, 31)])
def test_each_kubeadm_gets_what_it_reads(minor: int, same_as: int) -> None:
    expected = yaml.safe_load(EXPECTED[same_as].replace("PIN", PIN))
    assert joining.configuration(JOIN, Version(1, minor, 0)) == expected


def test_patches_are_left_out_where_kubeadm_does_not_apply_them_to_a_kubelet() -> None:
    assert "patches" not in joining.configuration(JOIN, Version(1, 24, 17))


NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True)


@given(
    st.integers(15, 40),
    st.dictionaries(NAME.map("vllmd.com/{}".format), NAME, max_size=3),
    st.lists(NAME, unique=True, max_size=2),
    st.none() | NAME,
    st.lists(st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True), min_size=1, max_size=2),
)
def test_a_guest_and_a_host_write_the_same(
    minor: int, labels: dict[str, str], taints: list[str], name: str | None, pins: list[str]
) -> None:
    section = GUEST.check(
        {
            "api_endpoint": "[fd00::10]:6443",
            "token": TOKEN,
            "ca_pins": pins,
            "labels": labels,
            "taints": [{"key": key, "effect": "NoExecute"} for key in taints],
            **({"node_name": name} if name else {}),
        }
    )
    order = Join(
        endpoint=section["api_endpoint"],
        token=TOKEN,
        pins=pins,
        name=name or "",
        labels=labels,
        taints=section["taints"],
        # What role kubernetes_node puts into the kubelet's configuration, which a guest does not write.
        arguments={"cgroup-driver": "systemd"} if minor < 22 else {},
    )
    ours = joining.configuration(order, Version(1, minor, 3))
    # A guest and a host do not wait equally long for the cluster.
    ours["discovery"].pop("timeout", None)
    ours.pop("timeouts", None)
    theirs = GUEST.join_configuration(section, (1, minor))
    theirs["discovery"].pop("timeout", None)
    theirs.pop("timeouts", None)
    theirs["discovery"]["bootstrapToken"]["caCertHashes"] = sorted(set(pins))
    assert ours == theirs


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"pins": []}, "no pin of the cluster's CA"),
        ({"pins": ["sha256:1"]}, "64 hexadecimal digits"),
        ({"endpoint": "10.0.0.10"}, "address and port"),
        ({"endpoint": "10.0.0.10:0"}, "address and port"),
        ({"endpoint": "https://10.0.0.10:6443"}, "address and port"),
        ({"token": "abcdef.0123456789ABCDEF"}, "malformed"),
    ],
)
def test_what_cannot_be_joined_with(change: dict[str, Any], what: str) -> None:
    fields = {"endpoint": JOIN.endpoint, "token": TOKEN, "pins": JOIN.pins, **change}
    with pytest.raises(NodeError) as error:
        joining.configuration(Join(**fields), Version(1, 33, 0))
    assert what in str(error.value)
    assert fields["token"] not in str(error.value)


def test_the_token_is_not_in_what_a_debugger_prints() -> None:
    assert TOKEN not in repr(JOIN)
    assert "0123456789abcdef" not in joining.without(TOKEN, f"--token {TOKEN} and 0123456789abcdef")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "error execution phase preflight: couldn't validate the identity of the API Server: cluster CA found in "
            'cluster-info ConfigMap is invalid: none of the public keys "sha256:bb" are pinned',
            "is not the one that is pinned",
        ),
        (
            "error execution phase preflight: couldn't validate the identity of the API Server: could not find a JWS "
            'signature in the cluster-info ConfigMap for token ID "abcdef"',
            "is unknown at 10.0.0.10:6443 or has expired",
        ),
        (
            'error execution phase kubelet-start: a Node with name "gpu-1" and status "Ready" already exists in the '
            "cluster",
            "a ready node named gpu-1",
        ),
        (
            'Get "https://10.0.0.10:6443/api": dial tcp 10.0.0.10:6443: connect: connection refused',
            "does not answer",
        ),
        (
            "[WARNING Swap]: swap\nerror execution phase preflight: [preflight] Some fatal errors occurred:\n"
            "\t[ERROR FileExisting-conntrack]: conntrack not found in system path\n"
            "[preflight] If you know what you are doing, you can make a check non-fatal with "
            "`--ignore-preflight-errors=...`",
            "[ERROR FileExisting-conntrack]: conntrack not found",
        ),
        ("something new\n", "something new"),
        ("", "kubeadm said nothing"),
    ],
)
def test_what_kubeadm_means(said: str, meant: str) -> None:
    line = joining.reason(said, "10.0.0.10:6443", "gpu-1")
    assert meant in line
    assert "\n" not in line


def test_all_checks_cannot_be_passed_over() -> None:
    assert joining.ignored(["Swap", "FileExisting-crictl", "Swap"]) == ["FileExisting-crictl", "Swap"]
    with pytest.raises(NodeError, match="'all' is not possible"):
        joining.ignored(["Swap", "ALL"])


@pytest.mark.parametrize("name", ["--node-ip", "node ip", "", "node-labels"])
def test_arguments_that_are_refused(name: str) -> None:
    with pytest.raises(NodeError):
        joining.arguments({name: "x"})


def test_the_configuration_is_json(tmp_path: Path) -> None:
    document = joining.configuration(JOIN, Version(1, 33, 0))
    assert yaml.safe_load(json.dumps(document)) == document
