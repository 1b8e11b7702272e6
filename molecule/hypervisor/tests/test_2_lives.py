"""How a virtual machine ends and comes back under systemd."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from conftest import wait_for

testinfra_hosts = ["ansible://with_systemd"]
UNIT = "vllmd-hypervisor@alpha.service"
LOG = "/var/log/vllmd/alpha.log"
HEALTH = "python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)\""


def shown(host, name: str) -> str:
    """One property of the unit."""
    return host.check_output(f"systemctl show --value --property={name} {UNIT}")


def journal(host) -> str:
    """What the launcher and systemd said of the unit."""
    return host.check_output(f"journalctl --no-pager --output=cat --unit={UNIT}")


def test_a_killed_monitor_is_started_again(host) -> None:
    killed = shown(host, "MainPID")
    host.check_output(f"kill -KILL {killed}")
    wait_for(lambda: shown(host, "MainPID") not in (killed, "0"), "a new monitor")
    wait_for(lambda: host.run(HEALTH).rc == 0, "the guest serves again", timeout=90)
    wait_for(
        lambda: shown(host, "ActiveState") == "active", "the unit is active, which only then has an end to be asked for"
    )
    assert shown(host, "NRestarts") == "1"


def test_a_stop_presses_the_power_button(host) -> None:
    host.check_output(f"systemctl stop {UNIT}")
    assert "alpha stopped: the guest powered off in" in journal(host)
    assert "tiny-guest: power button" in host.file(LOG).content_string
    assert (shown(host, "ActiveState"), shown(host, "Result")) == ("inactive", "success")
    assert not host.file("/run/vllmd/alpha").exists
    assert not host.socket("tcp://127.0.0.1:8000").is_listening


def test_it_starts_again(host) -> None:
    host.check_output(f"systemctl start {UNIT}")
    wait_for(lambda: host.run(HEALTH).rc == 0, "the guest serves", timeout=90)


def test_a_guest_that_powers_itself_off_stays_off(host) -> None:
    host.check_output(
        "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/vllmd/alpha/console.sock');"
        " s.sendall(b'poweroff -f\\n'); s.settimeout(5); s.recv(4096)\""
    )
    wait_for(lambda: shown(host, "ActiveState") == "inactive", "the unit is inactive")
    assert shown(host, "Result") == "success"
    host.check_output(f"systemctl start {UNIT}")


def test_a_refused_configuration_is_one_line_and_no_loop(host) -> None:
    host.check_output(
        "sed 's/^VLLMD_HYPERVISOR_CPU_COUNT=.*/VLLMD_HYPERVISOR_CPU_COUNT=four/;s/alpha/delta/'"
        " /etc/vllmd/hypervisor/alpha.env >/etc/vllmd/hypervisor/delta.env"
    )
    delta = "vllmd-hypervisor@delta.service"
    assert host.run(f"systemctl start {delta}").rc != 0
    said = host.check_output(f"journalctl --no-pager --output=cat --identifier=vllmd-hypervisor --unit={delta}")
    assert len(said.splitlines()) == 1
    assert said.startswith('vllmd-hypervisor: VLLMD_HYPERVISOR_CPU_COUNT="four": must be a whole number')
    assert host.check_output(f"systemctl show --value --property=NRestarts {delta}") == "0"
    host.check_output(f"rm /etc/vllmd/hypervisor/delta.env; systemctl reset-failed {delta}")
