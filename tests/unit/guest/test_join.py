"""Joining a cluster: only with the CA's pin, once, with the configuration that the installed kubeadm reads."""

from __future__ import annotations

import copy
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOKEN = "abcdef.0123456789abcdef"
SECTION: dict[str, Any] = {
    "api_endpoint": "10.0.0.10:6443",
    "token": TOKEN,
    "ca_pins": ["sha256:" + "a" * 64],
    "node_name": "gpu-1",
    "labels": {"vllmd.com/model": "smollm2", "node.kubernetes.io/accelerator": "h100"},
    "taints": [{"key": "vllmd.com/accelerator", "effect": "NoSchedule"}],
}

# Answers with requests of two tokens; one of them was denied.
KUBECTL = """
import json, os, sys
path = sys.argv[1].partition("=")[2]
with open(path) as stream, open("{root}/asked", "w") as asked:
    asked.write(json.dumps(dict(mode=os.stat(path).st_mode & 0o777, config=json.load(stream))))
denied = dict(type="Denied", reason="TokenUsed", message="it was used for node gpu-1 already")
print(json.dumps(dict(items=[
    dict(spec=dict(username="system:bootstrap:zzzzzz"), status=dict(conditions=[dict(type="Approved")])),
    dict(spec=dict(username="system:bootstrap:abcdef"), status=dict(conditions=[denied])),
])))
"""


@pytest.fixture
def join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, element_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script with its paths below ``tmp_path``, and a kubeadm and a systemctl that write down their calls."""
    module = element_script("vllmd-kubernetes-node/static/usr/lib/vllmd/join.py")
    for name in ("SECTION", "CONFIG", "FIREWALL", "KUBELET_CONF", "STAMP", "CONTAINERD", "BOOTSTRAP_CONF"):
        monkeypatch.setattr(module, name, str(tmp_path / getattr(module, name)[1:]))
    put(tmp_path / "etc/containerd/config.toml", f"version = 2\n{module.DISABLED}\n")
    program = f"""#!{sys.executable} -IS
import json, os, sys
root = {str(tmp_path)!r}
name = os.path.basename(sys.argv[0])
with open(f"{{root}}/calls", "a") as calls:
    print(name, *sys.argv[1:], file=calls)
if sys.argv[1:2] == ["version"]:
    print(os.environ.get("FAKE_VERSION", "v1.33.1"))
if name == "kubeadm" and sys.argv[1] == "join":
    path = sys.argv[3]
    with open(path) as stream, open(f"{{root}}/seen", "w") as seen:
        seen.write(json.dumps({{"mode": os.stat(path).st_mode & 0o777, "config": json.load(stream)}}))
    print("[preflight] talking about {TOKEN}")
    if os.environ.get("FAKE_FAILS"):
        os.makedirs(f"{{root}}/etc/kubernetes", exist_ok=True)
        open(f"{{root}}/etc/kubernetes/bootstrap-kubelet.conf", "w").close()
        if os.environ["FAKE_FAILS"] == "denied":
            os.makedirs(f"{{root}}/etc/kubernetes/pki")
            open(f"{{root}}/etc/kubernetes/pki/ca.crt", "w").close()
        elif os.environ["FAKE_FAILS"] != "1":
            print(os.environ["FAKE_FAILS"])
        print("error execution phase preflight: couldn't validate {TOKEN}", file=sys.stderr)
        sys.exit(1)
    os.makedirs(f"{{root}}/etc/kubernetes", exist_ok=True)
    open(f"{{root}}/etc/kubernetes/kubelet.conf", "w").close()
"""
    reasons = element_script("vllmd-kubernetes-node/static/usr/lib/vllmd/join_reasons.py")
    for name in ("CA", "ASK"):
        monkeypatch.setattr(reasons, name, str(tmp_path / getattr(reasons, name)[1:]))
    monkeypatch.setitem(sys.modules, "join_reasons", reasons)
    put(tmp_path / "bin/kubectl", f"#!{sys.executable} -IS\n{KUBECTL.format(root=tmp_path)}").chmod(0o755)
    for name in ("kubeadm", "systemctl"):
        put(tmp_path / "bin" / name, program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return module


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def calls(root: Path) -> list[str]:
    path = root / "calls"
    return path.read_text().splitlines() if path.exists() else []


def run(join: ModuleType, section: object) -> int:
    put(Path(join.SECTION), json.dumps(section))
    status: int = join.main()
    return status


def test_a_guest_joins_once_and_a_second_start_joins_no_more(
    join: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(join, SECTION) == 0
    assert f"kubeadm join --config {join.CONFIG}" in calls(tmp_path)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["mode"] == 0o600
    assert seen["config"]["discovery"]["bootstrapToken"]["unsafeSkipCAVerification"] is False
    assert not Path(join.CONFIG).exists(), "the token does not stay"
    assert "disabled_plugins = []" in Path(join.CONTAINERD).read_text()
    (tmp_path / "calls").unlink()
    assert run(join, {**SECTION, "token": "zzzzzz.0123456789abcdef"}) == 0, "a new token is no new cluster"
    assert not [call for call in calls(tmp_path) if " join" in call or " reset" in call]
    assert "systemctl start --no-block kubelet.service" in calls(tmp_path)
    out, err = capfd.readouterr()
    assert out.splitlines() == ["vllmd: joined 10.0.0.10:6443", "vllmd: node of 10.0.0.10:6443 since an earlier start"]
    assert TOKEN not in out + err
    assert "(token)" in err


def test_a_failed_join_is_one_line_and_the_next_one_starts_clean(
    join: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "1")
    assert run(join, SECTION) == 1
    out, err = capfd.readouterr()
    assert out == (
        "vllmd: FAILED: join: kubeadm join failed: error execution phase preflight: couldn't validate (token); "
        "trying again\n"
    )
    assert TOKEN not in err
    assert not Path(join.CONFIG).exists()
    monkeypatch.delenv("FAKE_FAILS")
    assert run(join, SECTION) == 0
    order = [call.split()[1] for call in calls(tmp_path) if call.startswith("kubeadm")]
    assert order == ["version", "join", "version", "reset", "join"]


@pytest.mark.parametrize(
    "case",
    [
        (
            "could not find a JWS signature in the cluster-info ConfigMap for token ID abcdef",
            "token abcdef is unknown at 10.0.0.10:6443: it was used before, has expired or was revoked; its host",
        ),
        (
            "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys a are pinned",
            "the CA that answers at 10.0.0.10:6443 is not the one that is pinned",
        ),
        ("denied", "the cluster denied this guest's certificate: TokenUsed: it was used for node gpu-1 already"),
    ],
)
def test_what_the_cluster_refuses_for_good_is_not_tried_again(
    join: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    case: tuple[str, str],
) -> None:
    said, sentence = case
    monkeypatch.setenv("FAKE_FAILS", said)
    assert run(join, SECTION) == 2
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert line.startswith(f"vllmd: FAILED: join: {sentence}")
    assert TOKEN not in out + err
    assert not Path(join.CONFIG).exists()
    if said == "denied":
        asked = json.loads((tmp_path / "asked").read_text())
        assert (asked["mode"], asked["config"]["users"][0]["user"]["token"]) == (0o600, TOKEN)
        assert not list(tmp_path.rglob("ask.json")), "the token does not stay"


def test_a_member_of_another_cluster_says_what_to_do(
    join: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(join, SECTION) == 0
    assert run(join, {**SECTION, "api_endpoint": "10.0.0.99:6443"}) == 2
    assert "is a node of 10.0.0.10:6443, and the config image now says otherwise" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ca_pins": None}, "kubernetes.ca_pins is missing; a cluster is only joined by the pin of its CA"),
        ({"ca_pins": []}, "kubernetes.ca_pins is missing"),
        ({"ca_pins": ["md5:1"]}, "kubernetes.ca_pins has to be a list of sha256:"),
        ({"api_endpoint": "nowhere"}, "kubernetes.api_endpoint has to be the API server's address and port"),
        ({"api_endpoint": "a:99999"}, "kubernetes.api_endpoint has to be"),
        ({"token": "secret-words"}, "kubernetes.token has to be a bootstrap token"),
        ({"node_name": "Upper"}, "kubernetes.node_name has to be a DNS name"),
        ({"labels": {"node-role.kubernetes.io/x": ""}}, "a node may not give itself this label"),
        ({"labels": {"a b": "c"}}, "kubernetes.labels: 'a b' has to be a label's name"),
        ({"labels": {"a": "b c"}}, "kubernetes.labels.a has to be at most 63"),
        ({"taints": [{"key": "a", "effect": "Never"}]}, "kubernetes.taints: effect has to be one of NoSchedule"),
        ({"taints": [{"key": "a"}]}, "kubernetes.taints has to be a list of {key, value, effect}"),
        ({"open_tcp": [True]}, "kubernetes.open_tcp has to be a list of ports"),
        ({"skip_ca": True}, "kubernetes.skip_ca is not a known field; known: api_endpoint, ca_pins"),
    ],
)
def test_a_wrong_section_is_one_line_without_the_token_and_runs_nothing(
    join: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], sentence: str
) -> None:
    section = {key: value for key, value in {**SECTION, **change}.items() if value is not None}
    assert run(join, section) == 2
    out = capfd.readouterr().out
    assert out.startswith("vllmd: FAILED: join: runtime.json: ")
    assert out.count("\n") == 1
    assert sentence in out
    assert "secret-words" not in out
    assert TOKEN not in out
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    ("kubeadm", "api", "extra", "socket"),
    [
        ((1, 20), "v1beta2", {"cgroup-driver": "systemd", "node-labels": "a=b"}, "/run/containerd/containerd.sock"),
        ((1, 22), "v1beta3", {"node-labels": "a=b"}, "unix:///run/containerd/containerd.sock"),
        ((1, 30), "v1beta3", {"node-labels": "a=b"}, "unix:///run/containerd/containerd.sock"),
        ((1, 31), "v1beta4", [{"name": "node-labels", "value": "a=b"}], "unix:///run/containerd/containerd.sock"),
        ((1, 37), "v1beta4", [{"name": "node-labels", "value": "a=b"}], "unix:///run/containerd/containerd.sock"),
    ],
)
def test_the_configuration_is_what_this_kubeadm_reads(
    join: ModuleType, kubeadm: tuple[int, int], api: str, extra: object, socket: str
) -> None:
    section = join.check({**copy.deepcopy(SECTION), "labels": {"a": "b"}})
    document = join.join_configuration(section, kubeadm)
    # How long an unknown token is asked for; it is said where this version reads it.
    where = document.pop("timeouts") if api == "v1beta4" else {"discovery": document["discovery"].pop("timeout")}
    assert where == {"discovery": join.DISCOVERY}
    assert document == {
        "apiVersion": f"kubeadm.k8s.io/{api}",
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "apiServerEndpoint": "10.0.0.10:6443",
                "token": TOKEN,
                "caCertHashes": SECTION["ca_pins"],
                "unsafeSkipCAVerification": False,
            }
        },
        "nodeRegistration": {
            "name": "gpu-1",
            "criSocket": socket,
            "taints": [{"key": "vllmd.com/accelerator", "value": "", "effect": "NoSchedule"}],
            "kubeletExtraArgs": extra,
        },
    }


def test_a_small_section_leaves_the_rest_to_kubeadm(join: ModuleType) -> None:
    section = join.check({field: SECTION[field] for field in join.FIELDS})
    registration = join.join_configuration(section, (1, 33))["nodeRegistration"]
    assert registration == {"criSocket": join.SOCKET, "taints": []}


def test_the_packet_filter_opens_what_a_node_needs(join: ModuleType) -> None:
    section = join.check({**SECTION, "open_tcp": [179], "open_udp": [8472]})
    assert join.firewall(section) == (
        "add element inet vllmd tcp_open { 179, 10250 }\n"
        "add element inet vllmd udp_open { 8472 }\n"
        "add rule inet vllmd forward accept\n"
    )


def test_the_stamp_tells_members_apart_by_all_but_the_token(join: ModuleType) -> None:
    section = join.check(SECTION)
    assert join.digest(section) == join.digest({**section, "token": "other"})
    assert join.digest(section) != join.digest({**section, "ca_pins": ["sha256:" + "b" * 64]})


def test_what_it_writes_is_for_root_alone(join: ModuleType, tmp_path: Path) -> None:
    assert run(join, SECTION) == 0
    assert stat.S_IMODE(Path(join.STAMP).stat().st_mode) == 0o600
    assert TOKEN not in Path(join.STAMP).read_text()


def test_the_section_reaches_the_joiner_readable_for_root_alone(
    configure: ModuleType, runtime: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime["kubernetes"] = SECTION
    with pytest.raises(configure.ConfigurationError) as caught:
        configure.plan(runtime)
    assert str(caught.value) == (
        "runtime.json: kubernetes is given, but this image cannot join a cluster; "
        "build it with element vllmd-kubernetes-node"
    )
    monkeypatch.setattr(configure, "JOIN", str(put(tmp_path / "join.py", "")))
    section = tmp_path / "run/kubernetes.json"
    monkeypatch.setattr(configure, "KUBERNETES", str(section))
    files, _links, _hostname = configure.plan(runtime)
    configure.write_files({str(section): files[str(section)]}, os.getgid())
    assert json.loads(section.read_text()) == SECTION
    assert stat.S_IMODE(section.stat().st_mode) == 0o600
    runtime["kubernetes"] = []
    with pytest.raises(configure.ConfigurationError, match="kubernetes is"):
        configure.plan(runtime)
