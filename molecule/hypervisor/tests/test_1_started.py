"""After converge on a systemd host: units as asked for, one confined process, a guest that serves."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://with_systemd"]
CAP_NET_ADMIN = 1 << 12
UNIT = "vllmd-hypervisor@alpha.service"


def shown(host, name: str, unit: str = UNIT) -> str:
    """One property of a unit as the running systemd has it loaded."""
    return host.check_output(f"systemctl show --value --property={name} {unit}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LoadState", "loaded"),
        ("ActiveState", "active"),
        ("UnitFileState", "enabled"),
        ("NeedDaemonReload", "no"),
        ("FragmentPath", "/etc/systemd/system/vllmd-hypervisor@.service"),
        ("DropInPaths", "/etc/systemd/system/vllmd-hypervisor@alpha.service.d/10-access.conf"),
        ("Slice", "vllmd.slice"),
        ("Type", "notify"),
        ("NotifyAccess", "all"),
        ("Restart", "on-failure"),
        ("RestartUSec", "5s"),
        ("TimeoutStartUSec", "26min"),  # ten minutes to run, and its guest has 15 to serve
        ("WatchdogUSec", "4min"),
        ("TimeoutStopUSec", "35s"),
        ("KillMode", "mixed"),
        ("User", "vllmd"),
        ("LimitMEMLOCK", "infinity"),
        ("LimitCORE", "0"),
        ("DevicePolicy", "closed"),
        ("NRestarts", "0"),
    ],
)
def test_systemd_has_loaded_the_unit(host, name: str, value: str) -> None:
    assert shown(host, name) == value


def test_unit_runs_the_launcher_with_its_env_file(host) -> None:
    assert "argv[]=/usr/local/bin/vllmd-hypervisor start ;" in shown(host, "ExecStart")
    assert "argv[]=/usr/local/bin/vllmd-hypervisor stop ;" in shown(host, "ExecStop")
    assert shown(host, "EnvironmentFiles").startswith("/etc/vllmd/hypervisor/alpha.env")


def test_env_file_is_for_root_and_the_virtual_machines_only(host) -> None:
    env_file = host.file("/etc/vllmd/hypervisor/alpha.env")
    assert (env_file.user, env_file.group, env_file.mode) == ("root", "vllmd", 0o640)


def test_units_are_free_of_warnings(host) -> None:
    assert host.run(f"systemd-analyze verify {UNIT}").stderr == ""


@pytest.mark.parametrize(("instance", "tenths"), [("alpha", 15), ("bridged", 24), ("beta", 7)])
def test_unit_is_confined(host, instance: str, tenths: int) -> None:
    """alpha has user-mode networking, which costs 0.8; beta has no network."""
    unit = f"vllmd-hypervisor@{instance}.service"
    result = host.run(f"systemd-analyze security --no-pager --threshold={tenths} {unit}")
    assert result.rc == 0, result.stdout


def processes(host, unit: str) -> dict[str, str]:
    """The processes of a unit: pid -> comm."""
    group = shown(host, "ControlGroup", unit)
    pids = host.file(f"/sys/fs/cgroup{group}/cgroup.procs").content_string.split()
    return {pid: host.file(f"/proc/{pid}/comm").content_string.strip() for pid in pids}


def test_the_unit_holds_the_monitor_by_the_launchers_name_and_its_watch(host) -> None:
    monitor = shown(host, "MainPID")
    found = processes(host, UNIT)
    assert found.pop(monitor) == "vllmd-hyperviso"
    assert list(found.values()) == ["vllmd-health"]
    status = host.check_output(f"systemctl status --no-pager --full --lines=0 {UNIT}")
    assert f"─{monitor} vllmd-hypervisor -" in status
    assert "qemu-system" not in status


def test_the_unit_is_active_because_its_guest_serves(host) -> None:
    assert shown(host, "StatusText").startswith("alpha serves: qemu (tcg), 1 vCPUs, 256M memory")
    said = host.check_output(f"journalctl --no-pager --output=cat --identifier=vllmd-hypervisor --unit={UNIT}")
    assert "alpha serves: http://127.0.0.1:8000/health answered" in said
    status = host.check_output("set -a; . /etc/vllmd/hypervisor/alpha.env; vllmd-hypervisor status")
    assert "running; healthy for " in status


def test_the_process_has_no_privilege(host) -> None:
    status = host.file(f"/proc/{shown(host, 'MainPID')}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = host.user("vllmd").uid
    assert fields["Uid"].split() == [str(uid)] * 4
    assert {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 0,
        "CapAmb": 0,
    }
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_the_guest_serves_on_the_loopback_port_only(host) -> None:
    answer = host.check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/health', timeout=5).read())\""
    )
    assert answer == "b'ok\\n'"
    assert host.socket("tcp://127.0.0.1:8000").is_listening
    assert not host.socket("tcp://0.0.0.0:8000").is_listening


def test_every_character_of_the_command_line_arrived_in_the_guest(host) -> None:
    console = host.file("/var/log/vllmd/alpha.log").content_string
    assert 'cmdline=console=ttyS0 panic=-1 quiet tiny.quoting="a $b `c` \\d"' in console


def test_status_tells_programs_and_people(host) -> None:
    command = "set -a; . /etc/vllmd/hypervisor/{}.env; vllmd-hypervisor status"
    assert host.run(command.format("alpha")).rc == 0
    assert host.run(command.format("beta")).rc == 3


def test_a_second_start_is_refused(host) -> None:
    before = shown(host, "MainPID")
    second = host.run(
        "systemd-run --quiet --wait --pipe -p EnvironmentFile=/etc/vllmd/hypervisor/alpha.env"
        " /usr/local/bin/vllmd-hypervisor start"
    )
    assert second.rc != 0
    assert second.stderr.strip() == f"vllmd-hypervisor: alpha is already running (pid {before}); stop it first"
    assert shown(host, "MainPID") == before


def test_a_guest_on_a_bridge_has_no_capability(host) -> None:
    """The launcher makes the tap with the only one that the unit allows, and drops it before the monitor runs."""
    unit = "vllmd-hypervisor@bridged.service"
    status = host.file(f"/proc/{shown(host, 'MainPID', unit)}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(host.user("vllmd").uid)] * 4
    assert int(fields["CapBnd"], 16) == CAP_NET_ADMIN
    assert [int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0] * 3
    assert host.file("/sys/class/net/vmtap0/master").linked_to.endswith("/vmbr0")
    answer = host.check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://10.0.2.15:8000/health', timeout=5).read())\""
    )
    assert answer == "b'ok\\n'"


def test_what_shall_be_stopped_is_stopped_also_at_boot(host) -> None:
    beta = host.service("vllmd-hypervisor@beta.service")
    assert not beta.is_running
    assert not beta.is_enabled
