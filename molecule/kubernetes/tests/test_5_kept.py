"""A member takes snapshots of etcd by itself, and looks after itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playing import wait_for

testinfra_hosts = ["ansible://control_plane"]
DIRECTORY = "/var/lib/vllmd/etcd-snapshots"
#: systemd-analyze's measure, 0 (locked up) to 10.
EXPOSURES = {"vllmd-etcd-snapshot.service": 2.5, "vllmd-control-plane-health.service": 3.5}


def snapshots(host: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output("vllmd-etcd-snapshot --list"))
    return found


def status(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("vllmd-control-plane-health --status").stdout)
    return found


@pytest.mark.parametrize("timer", ["vllmd-etcd-snapshot.timer", "vllmd-control-plane-health.timer"])
def test_timers_run(host: Any, timer: str) -> None:
    assert host.service(timer).is_running
    assert host.service(timer).is_enabled


@pytest.mark.parametrize("unit", list(EXPOSURES))
def test_units_are_locked_up(host: Any, unit: str) -> None:
    said = host.run(f"systemd-analyze security --no-pager {unit}").stdout
    exposure = float(said.rpartition("Overall exposure level")[2].split(":")[1].split()[0])
    assert exposure <= EXPOSURES[unit], said


def test_the_unit_takes_a_snapshot_that_only_root_reads(host: Any, cluster: Any) -> None:
    before = len(snapshots(host))
    host.check_output("systemctl start vllmd-etcd-snapshot.service")
    known = snapshots(host)
    assert len(known) == before + 1
    newest = known[0]
    file = host.file(f"{DIRECTORY}/{newest['name']}")
    assert (file.mode, file.user, host.file(DIRECTORY).mode) == (0o600, "root", 0o700)
    assert host.check_output(f"sha256sum {DIRECTORY}/{newest['name']}").split()[0] == newest["sha256"]
    assert (newest["member"], newest["reason"]) == ("control1", "timer")
    assert f"v{newest['kubernetes_version']}" == cluster.get("node", "control1")["status"]["nodeInfo"]["kubeletVersion"]
    assert newest["keys"] > 100
    assert newest["encryption"]


def rounds(host: Any, condition: Callable[[], Any], what: str) -> None:
    """Let one round follow the other, as the timer does, until the condition holds."""

    def holds() -> Any:
        host.check_output("systemctl start vllmd-control-plane-health.service")
        return condition()

    wait_for(holds, what, 240)


def test_a_round_finds_the_member_well(host: Any) -> None:
    rounds(host, lambda: status(host)["healthy"], "all is well")
    assert status(host)["restarted"] == {}
    assert status(host)["warnings"] == []


def test_an_api_server_that_hangs_is_restarted(host: Any, cluster: Any) -> None:
    pid = host.check_output("pgrep --exact kube-apiserver")
    host.check_output("systemctl stop vllmd-control-plane-health.timer")
    host.check_output(f"kill -STOP {pid}")
    try:
        rounds(host, lambda: pid not in host.run("pgrep --exact kube-apiserver").stdout.split(), "it is ended")
    finally:
        host.run(f"kill -CONT {pid}")
        host.check_output("systemctl start vllmd-control-plane-health.timer")
    wait_for(lambda: host.run("pgrep --exact kube-apiserver").rc == 0, "the kubelet starts it again", 120)
    wait_for(lambda: cluster.is_ready("control1"), "the API server answers", 120)
    rounds(host, lambda: status(host)["healthy"], "all is well again")
    said = host.check_output("journalctl --no-pager -u vllmd-control-plane-health.service")
    assert "kube-apiserver is restarted: https://" in said


def test_a_kubelet_that_somebody_stopped_is_left_alone(host: Any) -> None:
    host.check_output("systemctl stop kubelet.service")
    try:
        for _round in range(4):
            host.check_output("systemctl start vllmd-control-plane-health.service")
        assert not host.service("kubelet").is_running
        assert any("somebody has stopped or disabled it" in line for line in status(host)["warnings"])
    finally:
        host.check_output("systemctl start kubelet.service")
    rounds(host, lambda: status(host)["healthy"], "all is well again")


@pytest.mark.drill
def test_a_kubelet_that_hangs_is_restarted(host: Any, cluster: Any) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value kubelet.service")
    host.check_output(f"kill -STOP {pid}")
    show = "systemctl show --property=MainPID --value kubelet.service"
    rounds(host, lambda: host.check_output(show) not in {"0", pid}, "another one runs")
    rounds(host, lambda: status(host)["healthy"], "all is well again")
    wait_for(lambda: cluster.is_ready("control1"), "its node is ready", 120)
