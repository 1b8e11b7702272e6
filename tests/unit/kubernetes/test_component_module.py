"""Module kubernetes_component with a kubectl that answers from files: what is compared, applied, and waited for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import components
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_component as module


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    """A kubectl that takes the next line of the file named like its command: status, then what it says."""
    program = tmp_path / "kubectl"
    program.write_text(
        f"""#!{sys.executable} -IS
import os, sys
answers = {str(tmp_path)!r} + "/" + sys.argv[3]
lines = open(answers).read().splitlines()
if len(lines) > 1:
    open(answers, "w").write("\\n".join(lines[1:]))
status, _, said = lines[0].partition(" ")
print(said, file=sys.stderr if int(status) > 1 else sys.stdout)
sys.exit(int(status))
"""
    )
    program.chmod(0o755)
    return Kubectl(str(program), str(tmp_path / "admin.conf"))


def answer(kubectl: Kubectl, command: str, *lines: str) -> None:
    """Let kubectl answer so."""
    Path(kubectl.program).with_name(command).write_text("\n".join(lines))


def test_what_the_cluster_has_is_no_difference(kubectl: Kubectl) -> None:
    answer(kubectl, "diff", "0 ")
    assert module.difference(kubectl, "network", "kind: Namespace") is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("1 +  replicas: 2", "+  replicas: 2"),
        ("2 Error: namespaces 'a' not found", "objects that the cluster cannot compare"),
    ],
)
def test_what_it_lacks_is_shown(kubectl: Kubectl, said: str, shown: str) -> None:
    answer(kubectl, "diff", said)
    assert shown in str(module.difference(kubectl, "network", "kind: Namespace"))


def test_a_cluster_that_does_not_answer_is_no_difference(kubectl: Kubectl) -> None:
    answer(kubectl, "diff", "2 The connection to the server 10.0.0.10:8443 was refused")
    with pytest.raises(NodeError, match="component network cannot be compared with the cluster: The connection"):
        module.difference(kubectl, "network", "kind: Namespace")


def test_a_kind_that_comes_with_the_manifest_is_waited_for(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0)
    answer(kubectl, "apply", '2 error: no matches for kind "Pool"', "0 pool.example.com/a serverside-applied")
    said = module.apply(kubectl, "pools", "kind: Pool", time.monotonic() + 60)
    assert said == ["pool.example.com/a serverside-applied"]


def test_what_the_cluster_refuses_is_said(kubectl: Kubectl) -> None:
    answer(kubectl, "apply", "2 error: spec.replicas: Invalid value")
    with pytest.raises(NodeError, match=r"component pools cannot be applied: error: spec\.replicas: Invalid value"):
        module.apply(kubectl, "pools", "kind: Pool", time.monotonic() + 60)


def test_a_wait_that_does_not_end_says_for_what(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0)
    answer(kubectl, "rollout", "2 error: timed out waiting: 1 of 3 updated pods are available")
    wanted = [components.parse_wait("daemonset/kube-system/cilium")]
    with pytest.raises(
        NodeError, match=r"network: daemonset kube-system/cilium is not ready after 5 s: .*1 of 3 updated"
    ):
        module.await_ready(kubectl, "network", wanted, 5, time.monotonic())
