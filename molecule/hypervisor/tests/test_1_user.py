"""After converge for an ordinary user: the original launcher's paths, the user's own systemd."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://with_operator"]
UNIT = "vllmd-hypervisor@own.service"


def as_user(host, command: str) -> str:
    """Standard output of a command run as the user, with the user's runtime directory."""
    uid = host.user("operator").uid
    return host.check_output(f"runuser -u operator -- env XDG_RUNTIME_DIR=/run/user/{uid} {command}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ActiveState", "active"),
        ("UnitFileState", "enabled"),
        ("FragmentPath", "/home/operator/.config/systemd/user/vllmd-hypervisor@.service"),
        ("EnvironmentFiles", "/home/operator/.config/vllmd/hypervisor-own.env (ignore_errors=no)"),
        ("Slice", "vllmd.slice"),
        ("Type", "notify"),
    ],
)
def test_the_users_systemd_has_loaded_the_unit(host, name: str, value: str) -> None:
    assert as_user(host, f"systemctl --user show --value --property={name} {UNIT}") == value


def test_the_virtual_machine_is_the_users(host) -> None:
    process = host.process.get(pid=int(as_user(host, f"systemctl --user show --value --property=MainPID {UNIT}")))
    assert process.user == "operator"
    assert process.args.startswith("vllmd-hypervisor -")


def test_the_console_is_in_the_users_log(host) -> None:
    assert "tiny-guest: ready" in host.file("/home/operator/.local/log/vllmd/own.log").content_string


def test_it_runs_also_when_nobody_is_logged_in(host) -> None:
    assert host.file("/var/lib/systemd/linger/operator").exists
