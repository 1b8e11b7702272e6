"""Modules kubernetes_control_plane and kubernetes_member_leave with a kubeadm that writes down its calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import assembling, etcd_members, membership
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import parse

TOKEN = "abcdef.0123456789abcdef"
KEY = 64 * "0"
VERSION = parse("1.33.1")
DOCUMENTS = [{"kind": "InitConfiguration"}, {"kind": "ClusterConfiguration"}]
JOIN = {
    "kind": "JoinConfiguration",
    "nodeRegistration": {"name": "control-02"},
    "discovery": {"bootstrapToken": {"apiServerEndpoint": "10.0.0.10:8443", "token": TOKEN}},
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host below a root, with programs that write down their calls and do as the environment says."""
    monkeypatch.setattr(assembling, "ROOT", tmp_path)
    monkeypatch.setattr(assembling, "DIRECTORY", tmp_path / "run/config")
    (tmp_path / "run").mkdir()
    program = f"""#!{sys.executable} -IS
import os, sys
root, arguments = {str(tmp_path)!r}, sys.argv[1:]
with open(root + "/calls", "a") as calls:
    print(os.path.basename(sys.argv[0]), *[each for each in arguments if not each.startswith(root)], file=calls)
if arguments[:1] in (["init"], ["join"]) and arguments[1:2] == ["--config"]:
    with open(arguments[2]) as stream, open(root + "/seen", "w") as seen:
        seen.write(stream.read())
    os.makedirs(root + "/etc/kubernetes", exist_ok=True)
    open(root + "/etc/kubernetes/kubelet.conf", "w").close()
    if os.environ.get("FAKE_FAILS"):
        sys.exit(os.environ["FAKE_FAILS"])
elif arguments[:1] == ["reset"] and os.path.exists(root + "/etc/kubernetes/kubelet.conf"):
    os.unlink(root + "/etc/kubernetes/kubelet.conf")
elif "get" in arguments and "kubeadm-certs" in arguments:
    sys.stdout.write(os.environ.get("FAKE_CERTS", ""))
elif "/readyz" in arguments:
    sys.exit(0 if os.environ.get("FAKE_READY") else 1)
"""
    (tmp_path / "bin").mkdir()
    for name in ("kubeadm", "kubectl"):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def calls(host: Path) -> list[str]:
    """What was called, with the first words of each."""
    text = (host / "calls").read_text() if (host / "calls").exists() else ""
    return [" ".join(line.split()[:5]) for line in text.splitlines()]


def touch(host: Path, *names: str) -> None:
    """Files below the root."""
    for name in names:
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).touch()


def initialize() -> None:
    """Make the first member."""
    assembling.initialize(DOCUMENTS, TOKEN, ["addon/coredns"], VERSION, 60)


def test_the_clusters_keys_are_withdrawn_with_the_token_that_owns_them(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not assembling.withdraw_certificates()
    owner = {"apiVersion": "v1", "kind": "Secret", "name": "bootstrap-token-abcdef"}
    monkeypatch.setenv("FAKE_CERTS", json.dumps({"metadata": {"name": "kubeadm-certs", "ownerReferences": [owner]}}))
    assert assembling.withdraw_certificates()
    deleted = [line for line in (host / "calls").read_text().splitlines() if " delete " in line]
    assert [line.partition(" delete ")[2] for line in deleted] == [
        "secret kubeadm-certs bootstrap-token-abcdef --namespace kube-system --ignore-not-found"
    ]


def test_a_first_member_is_made_and_its_token_revoked(host: Path) -> None:
    initialize()
    assert calls(host) == [
        "kubeadm config validate --config",
        "kubeadm init --config --skip-token-print --skip-phases=addon/coredns",
        *calls(host)[2:],
    ]
    assert "delete secret bootstrap-token-abcdef" in (host / "calls").read_text()
    assert (host / "seen").read_text().count("---") == 1
    assert not (host / membership.MARKER).exists()
    assert not (host / "run/config").exists()


def test_an_init_that_fails_stays_to_be_looked_at_and_says_no_token(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILS", f"error execution phase wait-control-plane: {TOKEN}")
    with pytest.raises(NodeError, match="the control plane did not come up in time") as raised:
        initialize()
    assert TOKEN not in str(raised.value)
    assert (host / membership.MARKER).exists()
    assert membership.state(host) == "interrupted"
    assert not [call for call in calls(host) if "reset" in call]
    assert not (host / "run/config").exists()


def test_an_interrupted_init_is_reset_where_its_api_does_not_answer(host: Path) -> None:
    touch(host, membership.MARKER, "etc/kubernetes/kubelet.conf", "etc/kubernetes/pki/ca.key", "var/lib/etcd/member/db")
    assert assembling.authority(DOCUMENTS)
    assert "kubeadm reset --force --cri-socket unix:///run/containerd/containerd.sock" in calls(host)
    assert calls(host)[-1] == "kubeadm init phase certs ca"
    assert not (host / "var/lib/etcd/member").exists()
    assert membership.state(host) == "prepared"


def test_an_interrupted_init_goes_on_where_its_api_answers(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_READY", "1")
    touch(host, membership.MARKER, *membership.MEMBER_FILES)
    assert not assembling.authority(DOCUMENTS)
    initialize()
    phases = [call.removeprefix("kubeadm init phase ") for call in calls(host) if call.startswith("kubeadm init")]
    assert phases == [
        "upload-config all",
        "mark-control-plane --config",
        "bootstrap-token --config",
        "kubelet-finalize all",
        "addon kube-proxy",
    ]
    assert membership.state(host) == "member"


def test_a_member_is_left_alone(host: Path) -> None:
    touch(host, *membership.MEMBER_FILES)
    assert not assembling.authority(DOCUMENTS)
    assert calls(host) == []


def test_a_further_member_joins(host: Path) -> None:
    assembling.join(JOIN, [TOKEN, KEY], VERSION, 60)
    assert json.loads((host / "seen").read_text()) == JOIN
    assert not (host / membership.MARKER).exists()
    assert TOKEN not in (host / "calls").read_text()


def test_a_join_that_fails_is_reset_and_says_no_secret(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILS", f"error: cannot decrypt with {KEY} and {TOKEN}")
    with pytest.raises(NodeError, match="the host was reset") as raised:
        assembling.join(JOIN, [TOKEN, KEY], VERSION, 60)
    assert TOKEN not in str(raised.value)
    assert KEY not in str(raised.value)
    assert calls(host)[-1].startswith("kubeadm reset")
    assert membership.state(host) == "none"


MEMBERS = [
    {"ID": 10501334649042878790, "name": "control-01", "clientURLs": ["https://10.0.0.11:2379"]},
    {"ID": 2, "name": "control-02", "clientURLs": ["https://10.0.0.12:2379"]},
    {"ID": 3, "clientURLs": []},
]


def test_members_of_etcd_are_named_as_etcdctl_takes_them() -> None:
    found = etcd_members.parse(json.dumps({"members": MEMBERS}))
    assert [(each.identity, each.name) for each in found] == [
        ("91bc3c398fb3c146", "control-01"),
        ("2", "control-02"),
        ("3", ""),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"members": [{}]}', "null"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(NodeError, match="etcd's list of members cannot be read"):
        etcd_members.parse(text)


@pytest.mark.parametrize(
    ("count", "healthy", "confirmed", "said"),
    [
        (2, {"https://10.0.0.12:2379"}, "", ""),
        (2, {"https://10.0.0.11:2379"}, "", "control-02 of etcd's other members does not answer"),
        (3, {"https://10.0.0.12:2379"}, "", "3 of etcd's other members does not answer"),
        (1, {"https://10.0.0.11:2379"}, "", "control-01 is the last member"),
        (1, set(), "control-02", "runtime_controller_confirm_last: control-01"),
        (1, set(), "control-01", ""),
    ],
)
def test_who_may_leave(count: int, healthy: set[str], confirmed: str, said: str) -> None:
    members = etcd_members.parse(json.dumps({"members": MEMBERS[:count]}))
    assert said in etcd_members.why_not(members, "control-01", healthy, confirmed)
    assert bool(said) == bool(etcd_members.why_not(members, "control-01", healthy, confirmed))
