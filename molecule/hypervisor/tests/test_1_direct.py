"""After converge on a host without systemd: the launcher alone, and the same way in and out."""

from __future__ import annotations

import json

testinfra_hosts = ["ansible://bare"]


def status(host) -> dict:
    """What the launcher says of alpha."""
    return json.loads(host.run("set -a; . /etc/vllmd/hypervisor/alpha.env; vllmd-hypervisor status --json").stdout)


def test_systemd_is_really_not_here(host) -> None:
    assert not host.file("/run/systemd/system").exists
    assert not host.file("/etc/systemd/system/vllmd-hypervisor@.service").exists


def test_the_virtual_machine_runs_detached_as_its_own_user(host) -> None:
    assert status(host)["state"] == "running"
    process = host.process.get(pid=status(host)["pid"])
    assert process.user == "vllmd"
    assert process.args.startswith("vllmd-hypervisor -")
    assert process.ppid == 1
    assert process.sid == process.pid


def test_the_guest_serves(host) -> None:
    answer = host.check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/health', timeout=5).read())\""
    )
    assert answer == "b'ok\\n'"


def test_every_character_of_the_command_line_arrived_in_the_guest(host) -> None:
    console = host.file("/var/log/vllmd/alpha.log").content_string
    assert 'cmdline=console=ttyS0 panic=-1 quiet tiny.quoting="a $b `c` \\d"' in console
