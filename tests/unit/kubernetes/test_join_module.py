"""Module kubernetes_join with a kubeadm that writes down its calls: once, pinned, without a trace of the token."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_join

TOKEN = "abcdef.0123456789abcdef"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host below a root, where kubeadm joins, resets and answers for a version as the test says."""
    monkeypatch.setattr(kubernetes_join, "ROOT", tmp_path)
    for name in ("LOCK", "DIRECTORY", "BOOTSTRAP"):
        monkeypatch.setattr(kubernetes_join, name, tmp_path / str(getattr(kubernetes_join, name))[1:])
    (tmp_path / "run").mkdir()
    (tmp_path / "etc/kubernetes").mkdir(parents=True)
    program = f"""#!{sys.executable} -IS
import json, os, sys
root = {str(tmp_path)!r}
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(f"{{root}}/calls", "a") as calls:
    print(name, *arguments, file=calls)
version = os.environ.get("FAKE_VERSION", "v1.33.1")
if name == "kubelet":
    print("Kubernetes " + version)
elif arguments[0] == "version":
    print(version)
elif arguments[0] == "config":
    sys.exit(os.environ.get("FAKE_INVALID") or 0)
elif arguments[0] == "reset":
    for path in ("kubelet.conf", "bootstrap-kubelet.conf"):
        if os.path.exists(f"{{root}}/etc/kubernetes/{{path}}"):
            os.unlink(f"{{root}}/etc/kubernetes/{{path}}")
elif arguments[0] == "join":
    with open(arguments[2]) as stream, open(f"{{root}}/seen", "w") as seen:
        json.dump({{"mode": os.stat(arguments[2]).st_mode & 0o777, "config": json.load(stream)}}, seen)
    with open(f"{{root}}/etc/kubernetes/bootstrap-kubelet.conf", "w") as stream:
        stream.write("token: {TOKEN}")
    if os.environ.get("FAKE_FAILS"):
        sys.exit(os.environ["FAKE_FAILS"])
    open(f"{{root}}/etc/kubernetes/kubelet.conf", "w").write("")
"""
    (tmp_path / "bin").mkdir()
    for name in ("kubeadm", "kubelet"):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def bring(pin: str, check: bool = False, **given: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "endpoint": "10.0.0.10:6443",
        "token": TOKEN,
        "ca_pins": [pin],
        "name": "gpu-1",
        "labels": {"vllmd.com/rack": "r1"},
        "taints": [],
        "kubelet_arguments": {},
        "allow_swap": False,
        "ignore_preflight_errors": [],
        "patches": "/etc/vllmd/patches",
        "discovery_timeout": 60,
        "timeout": 60,
    }
    return kubernetes_join.bring(SimpleNamespace(check_mode=check), {**values, **given})


def calls(root: Path) -> list[str]:
    path = root / "calls"
    return path.read_text().splitlines() if path.exists() else []


def traces(root: Path) -> list[str]:
    """Files below the root that hold the token, but for what the test's own kubeadm keeps."""
    kept = ("seen", "kubeadm", "kubelet")
    return [
        str(path) for path in root.rglob("*") if path.is_file() and path.name not in kept and TOKEN in path.read_text()
    ]


def test_a_host_joins_and_the_token_is_gone(host: Path, authority: Any) -> None:
    result = bring(authority.pin)
    assert (result["changed"], result["version"], result["api_version"]) == (True, "v1.33.1", "kubeadm.k8s.io/v1beta4")
    seen = json.loads((host / "seen").read_text())
    assert seen["mode"] == 0o600
    assert seen["config"]["discovery"]["bootstrapToken"]["token"] == TOKEN
    assert any(call.startswith("kubeadm config validate") for call in calls(host))
    assert TOKEN not in json.dumps(result)
    assert not any("0123456789abcdef" in call for call in calls(host))
    assert traces(host) == []
    assert not (host / "run/vllmd-kubernetes-join").exists()


def test_a_node_of_this_cluster_is_left_alone(host: Path, authority: Any, joined: Callable[..., Path]) -> None:
    joined(host, authority, "https://another-name:6443")
    assert bring(authority.pin, token="") == {"changed": False, "name": "gpu-1", "version": ""}
    assert calls(host) == []


def test_a_node_of_another_cluster_is_refused(
    host: Path, authority: Any, other_authority: Any, joined: Callable[..., Path]
) -> None:
    joined(host, other_authority, "https://10.9.9.9:6443")
    with pytest.raises(NodeError, match=r"is a node of https://10\.9\.9\.9:6443 .*kubernetes_node_state: left"):
        bring(authority.pin)
    assert calls(host) == []


@pytest.mark.parametrize("given", [{"ca_pins": []}, {"ca_pins": ["sha256:1"]}, {"token": ""}, {"endpoint": "x"}])
@pytest.mark.parametrize("check", [True, False])
def test_nothing_runs_without_what_a_join_needs(host: Path, authority: Any, given: dict[str, Any], check: bool) -> None:
    with pytest.raises(NodeError) as error:
        bring(authority.pin, check, **given)
    assert TOKEN not in str(error.value)
    assert calls(host) == []


def test_a_dry_run_says_what_it_would_write(host: Path, authority: Any) -> None:
    result = bring(authority.pin, check=True)
    assert result["changed"]
    assert '"token": "(token)"' in result["diff"]["after"]
    assert not any("join" in call for call in calls(host))


def test_a_failed_join_is_undone(host: Path, authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f'could not find a JWS signature in the cluster-info ConfigMap for token ID "abcdef" ({TOKEN})'
    monkeypatch.setenv("FAKE_FAILS", said)
    with pytest.raises(NodeError) as error:
        bring(authority.pin)
    assert "is unknown at 10.0.0.10:6443 or has expired" in str(error.value)
    assert str(error.value).endswith("the host is as it was")
    assert [call.split()[1] for call in calls(host) if call.startswith("kubeadm")][-2:] == ["join", "reset"]
    assert traces(host) == []
    monkeypatch.setenv("FAKE_FAILS", f"error: {TOKEN} is odd")
    with pytest.raises(NodeError, match=r"\(token\) is odd"):
        bring(authority.pin)


def test_what_an_interrupted_join_left_is_reset_first(host: Path, authority: Any) -> None:
    (host / "etc/kubernetes/bootstrap-kubelet.conf").write_text(f"token: {TOKEN}")
    (host / "run/vllmd-kubernetes-join").mkdir()
    (host / "run/vllmd-kubernetes-join/config.json").write_text(TOKEN)
    bring(authority.pin)
    order = [call.split()[1] for call in calls(host) if call.startswith("kubeadm")]
    assert order == ["version", "reset", "config", "join"]
    assert traces(host) == []


def test_a_host_of_a_control_plane_is_never_reset(host: Path, authority: Any) -> None:
    (host / "etc/kubernetes/pki").mkdir()
    for name in ("ca.crt", "ca.key"):
        (host / "etc/kubernetes/pki" / name).write_text("")
    with pytest.raises(NodeError, match=r"control plane: /etc/kubernetes/pki/ca\.key is there"):
        bring(authority.pin)
    assert not any("reset" in call or "join" in call for call in calls(host))


def test_the_configuration_follows_the_kubeadm_that_is_there(
    host: Path, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "v1.20.2")
    bring(authority.pin, allow_swap=True)
    config = json.loads((host / "seen").read_text())["config"]
    assert config["apiVersion"] == "kubeadm.k8s.io/v1beta2"
    assert config["nodeRegistration"]["kubeletExtraArgs"] == {
        "fail-swap-on": "false",
        "node-labels": "vllmd.com/rack=r1",
    }
    assert not any("validate" in call for call in calls(host))
