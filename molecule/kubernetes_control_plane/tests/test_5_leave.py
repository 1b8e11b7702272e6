"""The way back: members leave one at a time, etcd first; the last one only when it is named."""

from __future__ import annotations

import json
import re
from subprocess import CompletedProcess
from typing import Any

import pytest
from cluster import Cluster
from hosts import of_run
from playing import play
from registration import Registration

testinfra_hosts = ["ansible://control3"]
MEMBERS = ["control1", "control2", "control3"]
LEFT = (
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/apiserver",
    "/etc/kubernetes/manifests/etcd.yaml",
    "/etc/kubernetes/pki/ca.key",
    "/etc/systemd/system/vllmd-certificates.timer",
    "/etc/systemd/system/vllmd-node-approver.service",
    "/etc/vllmd/control-plane-controller/approver.conf",
    "/etc/vllmd/runtime-controller",
    "/var/lib/etcd/member",
    "/var/lib/vllmd/runtime-controller",
)
# As the kernel has them, 15 characters at most.
PROGRAMS = {"kube-apiserver", "kube-controller", "kube-scheduler", "etcd", "haproxy", "keepalived", "kubelet"}


def leave(name: str, **variables: Any) -> CompletedProcess[str]:
    """Let one member leave, as an operator does."""
    return play("control-plane", f"--limit={name}", members=MEMBERS, runtime_controller_state="absent", **variables)


def stays(host: Any) -> list[str]:
    """What is left of a member on its host."""
    running = sorted(PROGRAMS & set(host.check_output("ps -eo comm=").split()))
    units = host.run("systemctl list-units --all --plain --no-legend 'vllmd-*'").stdout.split()
    return [path for path in LEFT if host.file(path).exists] + running + units


@pytest.mark.parametrize("name", ["control3", "control2"])
def test_a_member_leaves_and_the_others_go_on(cluster: Cluster, registration: Registration, name: str) -> None:
    left = leave(name)
    assert left.returncode == 0, left.stdout
    assert name not in cluster.nodes()
    assert json.loads(registration.record(name)["identity"])["left"]
    assert cluster.kubectl("create", "configmap", f"written-after-{name}")
    assert cluster.is_ready("control1")
    assert stays(of_run(name)) == []


def test_leaving_again_changes_nothing() -> None:
    again = leave("control3")
    assert again.returncode == 0, again.stdout
    assert re.findall(r"\bchanged=(\d+)", again.stdout) == ["0"], again.stdout


def test_the_last_member_leaves_only_when_it_is_named(cluster: Cluster) -> None:
    refused = leave("control1")
    assert refused.returncode != 0
    assert "control1 is the last member" in " ".join(refused.stdout.split())
    assert cluster.is_ready("control1")
    assert cluster.host.service("vllmd-node-approver.service").is_running
    left = leave("control1", runtime_controller_confirm_last="control1")
    assert left.returncode == 0, left.stdout
    assert stays(cluster.host) == []
