"""What is written and taken away: the kubelet's fields by version, packages, apt's source, tokens, leftovers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import kubelet, leftovers, packages, tokens
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.joining import token
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.packages import Installed
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import Version


def overrides(minor: int, **given: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "cgroup_driver": "systemd",
        "shutdown_seconds": 60,
        "critical_seconds": 20,
        "serving_certificates": True,
        "allow_swap": False,
    }
    return kubelet.overrides(Version(1, minor, 0), **{**values, **given})


def test_what_a_nodes_kubelet_has_of_its_own() -> None:
    assert overrides(33) == {
        "cgroupDriver": "systemd",
        "rotateCertificates": True,
        "serverTLSBootstrap": True,
        "shutdownGracePeriod": "60s",
        "shutdownGracePeriodCriticalPods": "20s",
    }


def test_a_graceful_shutdown_is_a_gate_in_1_20_and_unknown_before() -> None:
    assert overrides(20)["featureGates"] == {"GracefulNodeShutdown": True}
    assert "featureGates" not in overrides(20, shutdown_seconds=0, critical_seconds=0)
    assert "featureGates" not in overrides(21)
    assert "shutdownGracePeriod" not in overrides(19)


def test_swap_is_said_where_the_kubelet_hears_it_before_it_starts() -> None:
    assert overrides(33, allow_swap=True)["failSwapOn"] is False
    assert kubelet.first_arguments(Version(1, 33, 0), allow_swap=True) == {}
    assert kubelet.first_arguments(Version(1, 24, 0), allow_swap=True) == {"fail-swap-on": "false"}
    assert kubelet.first_arguments(Version(1, 24, 0), allow_swap=False) == {}


@pytest.mark.parametrize(
    "given",
    [{"cgroup_driver": "other"}, {"critical_seconds": 61}, {"critical_seconds": -1}, {"shutdown_seconds": -5}],
)
def test_what_no_kubelet_could_do(given: dict[str, Any]) -> None:
    with pytest.raises(NodeError):
        overrides(33, **given)


def test_a_configuration_keeps_what_it_says_in_other_words() -> None:
    current = {
        "shutdownGracePeriod": "1m0s",
        "shutdownGracePeriodCriticalPods": "30s",
        "featureGates": {"Other": True},
        "clusterDNS": ["10.96.0.10"],
    }
    wanted = overrides(20)
    merged = kubelet.merged(current, wanted)
    assert merged["shutdownGracePeriod"] == "1m0s"
    assert merged["shutdownGracePeriodCriticalPods"] == "20s"
    assert merged["featureGates"] == {"Other": True, "GracefulNodeShutdown": True}
    assert merged["clusterDNS"] == ["10.96.0.10"]
    assert kubelet.merged(merged, wanted) == merged
    assert kubelet.merged(None, wanted) == wanted


def test_no_graceful_shutdown_is_what_a_kubelet_has_by_itself() -> None:
    assert kubelet.merged({}, {"shutdownGracePeriod": "0s"}) == {}
    assert kubelet.merged({"shutdownGracePeriod": "soon"}, {"shutdownGracePeriod": "0s"}) == {
        "shutdownGracePeriod": "0s"
    }


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("1.33.1-1.1", "1.33.1"),
        ("1.20.2", "1.20.2"),
        ("1:1.20.2-1", "1.20.2"),
        ("1:1.20.2", "1.20.2"),
        ("1-2-3", "1-2"),
    ],
)
def test_the_upstream_part_of_a_version(version: str, upstream: str) -> None:
    assert packages.upstream(version) == upstream


def test_what_is_lacking_of_the_packages() -> None:
    text = "kubelet 1.33.1-1.1 ii \nkubeadm 1.33.0-1.1 hi \ncontainerd 1.7.24 ii \nsocat 1.8 rc \ncri-tools 1.33 iU \n"
    installed = packages.read_status(text, ["kubeadm"])
    assert installed == {
        "kubelet": Installed("1.33.1-1.1", False),
        "kubeadm": Installed("1.33.0-1.1", True),
        "containerd": Installed("1.7.24", False),
    }
    wanted = {"kubelet": "1.33.1", "kubeadm": "1.33.1", "containerd": "", "socat": "", "cri-tools": ""}
    assert packages.lacking(wanted, installed) == {"kubeadm": "1.33.1", "socat": "", "cri-tools": ""}


MADISON = """\
   kubelet | 1.33.10-1.1 | https://packages.example.com/v1.33/deb  Packages
   kubelet | 1.33.1-2.1 | https://packages.example.com/v1.33/deb  Packages
   kubelet | 1.33.1-1.1 | https://packages.example.com/v1.33/deb  Packages
 cri-tools | 1.33.0-1.1 | https://packages.example.com/v1.33/deb  Packages
 cri-tools | 1.33.0-1.1 | https://packages.example.com/v1.33/deb  Sources
"""


def test_exactly_the_version_that_was_asked_for() -> None:
    offers = packages.read_offers(MADISON)
    chosen = packages.choose({"kubelet": "1.33.1", "cri-tools": ""}, offers, "the repository")
    assert chosen == ["cri-tools=1.33.0-1.1", "kubelet=1.33.1-2.1"]
    with pytest.raises(NodeError) as error:
        packages.choose({"kubelet": "1.33.2", "kubeadm": "1.33.2"}, offers, "the repository")
    assert str(error.value).startswith(
        "the repository has no kubeadm 1.33.2; no kubelet 1.33.2 (there is 1.33.10-1.1, 1.33.1-2.1, 1.33.1-1.1)"
    )


def test_a_source_is_signed_by_one_key() -> None:
    line = "deb [arch=amd64,arm64] https://packages.example.com/v1.33/deb/ stable main contrib"
    assert packages.source(line, "/etc/apt/keyrings/k.asc") == (
        "Types: deb\nURIs: https://packages.example.com/v1.33/deb/\nSuites: stable\nComponents: main contrib\n"
        "Architectures: amd64 arm64\nSigned-By: /etc/apt/keyrings/k.asc\n"
    )
    assert "Components" not in packages.source("deb file:/srv/apt ./", "/k.gpg")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "deb",
        "deb-src https://a.example/ /",
        "deb [trusted=yes] https://a.example/ /",
        "deb [arch=amd64 Allow-Insecure=Yes] https://a.example/ /",
        "deb cdrom:[x] / main",
        "deb https://a.example/ /\ndeb https://b.example/ /",
    ],
)
def test_a_source_that_is_refused(line: str) -> None:
    with pytest.raises(NodeError, match="kubernetes_node_repository: "):
        packages.source(line, "/k.asc")


@pytest.mark.parametrize("text", ["", "garbage\n", f"{'a' * 64}  ../kubelet.deb\n", f"{'a' * 63}  kubelet.deb\n"])
def test_digests_that_are_none(text: str) -> None:
    with pytest.raises(NodeError, match="SHA256SUMS"):
        packages.read_digests(text)


def test_digests_by_name() -> None:
    assert packages.read_digests(f"{'a' * 64}  ./kubelet.deb\n{'b' * 64} *kubeadm.deb\n") == {
        "kubelet.deb": "a" * 64,
        "kubeadm.deb": "b" * 64,
    }


def test_a_new_token_is_one_that_kubeadm_takes_and_ends() -> None:
    made = {tokens.generate() for _each in range(50)}
    assert len(made) == 50
    assert all(token(each) == each for each in made)
    secret = tokens.secret("abcdef.0123456789abcdef", "for gpu-1", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert secret["metadata"] == {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    assert secret["stringData"]["token-secret"] == "0123456789abcdef"
    assert secret["stringData"]["expiration"] == "2030-01-02T03:04:05Z"
    with pytest.raises(NodeError):
        tokens.token_id("abcdef.0123456789abcdef")


SAVED = """\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [1:60]
:KUBE-SERVICES - [0:0]
:CNI-4f1b - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2
-A POSTROUTING -s 10.88.1.2/32 -j CNI-4f1b
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X
-A DOCKER -i docker0 -j RETURN
COMMIT
"""


def test_only_kubernetes_rules_go() -> None:
    assert leftovers.has_rules(SAVED)
    kept = leftovers.filtered(SAVED)
    assert kept == (
        "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [1:60]\n:DOCKER - [0:0]\n"
        "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n"
        "-A DOCKER -i docker0 -j RETURN\nCOMMIT\n"
    )
    assert not leftovers.has_rules(kept)
    assert leftovers.filtered(kept) == kept


def test_what_a_node_left(tmp_path: Path) -> None:
    for name in (
        "sys/class/net/cni0",
        "run/netns/cni-1",
        "run/netns/mine",
        "var/lib/cni/networks",
        "sys/fs/cgroup/cpu/kubepods/besteffort/pod1",
        "sys/fs/cgroup/kubepods.slice",
        "sys/fs/cgroup/cpu/system.slice",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/kubernetes").mkdir(parents=True)
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text("")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text(
        "tmpfs /var/lib/kubelet/pods/1/volumes/a\\040b tmpfs rw 0 0\nnsfs /run/netns/cni-1 nsfs rw 0 "
        "0\nproc /proc proc rw 0 0\n"
    )
    found = leftovers.find(tmp_path, ["cni0", "flannel.1"], ["/var/lib/cni", "/etc/cni/net.d"])
    assert found == leftovers.Leftovers(
        member_files=("/etc/kubernetes/kubelet.conf",),
        links=("cni0",),
        paths=("/var/lib/cni/networks",),
        mounts=("/var/lib/kubelet/pods/1/volumes/a b", "/run/netns/cni-1"),
        namespaces=("/run/netns/cni-1",),
        cgroups=(
            "/sys/fs/cgroup/cpu/kubepods/besteffort/pod1",
            "/sys/fs/cgroup/cpu/kubepods/besteffort",
            "/sys/fs/cgroup/cpu/kubepods",
            "/sys/fs/cgroup/kubepods.slice",
        ),
    )
    assert "link cni0" in found.lines()
    assert leftovers.find(tmp_path / "nothing", ["cni0"], ["/var/lib/cni"]) == leftovers.Leftovers()


@pytest.mark.parametrize(
    ("wanted", "own", "is_refused"),
    [
        ("1.33.1", "1.34.0-1.1", True),
        ("1.33.1", "1.33.2-1.1", True),
        ("1.33.10", "1.33.9-1.1", False),
        ("1.33.1", "1.33.1-1.1", False),
        ("", "1.34.0-1.1", False),
        ("1.33.1", "", False),
    ],
)
def test_a_node_gets_no_older_kubelet(wanted: str, own: str, is_refused: bool) -> None:
    installed = {"kubelet": packages.Installed(own, is_held=True)} if own else {}
    if is_refused:
        with pytest.raises(NodeError, match=r"set kubernetes_node_version: 1[.]3"):
            packages.refuse_older_kubelet({"kubelet": wanted, "socat": ""}, installed)
    else:
        packages.refuse_older_kubelet({"kubelet": wanted, "socat": ""}, installed)
