"""Layer hardening, running: the packet filter refuses, settings are in effect, no login but by an operator's key."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://guest"]
Said = dict[str, str]
SETTINGS = Path(__file__).parents[3] / "image-elements/vllmd-hardening/static/etc/sysctl.d/99-vllmd.conf"
# A neighbour of the guest, not behind its loopback: a network namespace at the other end of a cable, IPv4 and IPv6.
CABLE = """
ip netns add neighbour && ip link add cable type veth peer name cable netns neighbour
ip address add 192.0.2.1/24 dev cable && ip address add 2001:db8::1/64 dev cable nodad && ip link set cable up
ip -n neighbour address add 192.0.2.2/24 dev cable && ip -n neighbour address add 2001:db8::2/64 dev cable nodad
ip -n neighbour link set cable up
"""
KNOCK = """
import socket
import subprocess

NEIGHBOUR = '''
import socket, sys
for host in ('192.0.2.1', '2001:db8::1'):
    try:
        socket.create_connection((host, int(sys.argv[1])), 2)
        print('open')
    except OSError as error:
        print(type(error).__name__)
'''

def knock(what, port):
    command = ["ip", "netns", "exec", "neighbour", "python3", "-ISBc", NEIGHBOUR, str(port)]
    print(what, *subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split(), flush=True)

listener = socket.create_server(("::", 8001), family=socket.AF_INET6, dualstack_ipv6=True)
knock("closed", 8001)
subprocess.run(["nft", "add", "element", "inet", "vllmd", "tcp_open", "{", "8001", "}"], check=True)
knock("opened", 8001)
knock("engine", 8000)
"""


def settings() -> dict[str, str]:
    """The kernel settings that the element asks for, name -> value; a pattern stands for the network card."""
    asked = [line for line in SETTINGS.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#"]
    rows = (line.split("=", 1) for line in asked)
    return {name.strip().replace("*", "eth0"): value.strip() for name, value in rows}


@pytest.fixture(scope="module")
def said(ask: Callable[[dict[str, str]], Said]) -> Said:
    names = " ".join(shlex.quote(name.removeprefix("-")) for name in settings())
    return ask(
        {
            "settings": f"sysctl --ignore {names}",
            "rules": "nft --json list table inet vllmd",
            "tables": "nft list tables",
            "cmdline": "cat /proc/cmdline",
            "lockdown": "cat /sys/kernel/security/lockdown",
            "unsigned": "for m in $(awk '{print $1}' /proc/modules); do cat /sys/module/$m/taint; done | sort -u",
            "limits": "cat /proc/$(systemctl show --value --property=MainPID vllm)/limits",
            "order": "for unit in vllmd-firewall systemd-networkd; do "
            "systemctl show --value --property=ActiveEnterTimestampMonotonic $unit; done",
            "reload": "systemctl reload vllmd-firewall && echo reloaded",
            "rules again": "nft --json list table inet vllmd",
            "knock": f"{CABLE}python3 -ISBc {shlex.quote(KNOCK)}; nft list chain inet vllmd input | grep refused; "
            "ip link delete cable; ip netns delete neighbour; systemctl reload vllmd-firewall",
        }
    )


def elements(rules: str, name: str) -> set[int]:
    """The members of a set of the packet filter."""
    found = [item["set"] for item in json.loads(rules)["nftables"] if "set" in item]
    return set(next(each for each in found if each["name"] == name).get("elem", []))


@pytest.mark.parametrize("name", sorted(settings()))
def test_kernel_setting(said: Said, name: str) -> None:
    found = dict(line.split(" = ", 1) for line in said["settings"].splitlines() if " = " in line)
    if name.startswith("-") and name[1:] not in found:
        return  # a setting that may be absent: not every kernel has it
    assert found[name.removeprefix("-")].split() == settings()[name].split()


@pytest.mark.parametrize("chain", ["input", "forward"])
def test_default_is_to_drop(said: Said, chain: str) -> None:
    chains = {item["chain"]["name"]: item["chain"] for item in json.loads(said["rules"])["nftables"] if "chain" in item}
    assert (chains[chain]["policy"], chains[chain]["family"]) == ("drop", "inet")


def test_only_our_ports_are_let_in(said: Said) -> None:
    assert elements(said["rules"], "tcp_open") == {22, 8000, 9100}
    assert elements(said["rules"], "udp_open") == set()


def test_nobody_else_has_rules(said: Said) -> None:
    assert said["tables"] == "table inet vllmd"


def test_a_reload_gives_the_same_rules(said: Said) -> None:
    assert said["reload"] == "reloaded"
    assert elements(said["rules again"], "tcp_open") == elements(said["rules"], "tcp_open")


def test_the_packet_filter_was_there_before_the_network(said: Said) -> None:
    firewall, networkd = map(int, said["order"].split())
    assert 0 < firewall < networkd


def test_a_port_that_listens_is_refused_until_it_is_opened(said: Said) -> None:
    """Over IPv4 and IPv6, from a neighbour; the same listener answers once its port is open, the engine always."""
    assert said["knock"].splitlines()[:3] == [
        "closed TimeoutError TimeoutError",
        "opened open open",
        "engine open ConnectionRefusedError",
    ], said["knock"]


def test_refusals_are_counted(said: Said) -> None:
    assert "packets 0 " not in said["knock"].splitlines()[3]


def test_the_command_line_is_the_manifests(said: Said, manifest: dict[str, Any]) -> None:
    assert set(manifest["cmdline"].split()) <= set(said["cmdline"].split())


def test_the_kernel_is_locked_down(said: Said, manifest: dict[str, Any]) -> None:
    wanted = "integrity" if "lockdown=integrity" in manifest["cmdline"] else "none"
    assert f"[{wanted}]" in said["lockdown"]


def test_every_loaded_module_is_debians(said: Said) -> None:
    """A module that is unsigned or was built elsewhere taints itself."""
    assert said["unsigned"].strip() == ""


def test_the_engine_dumps_no_core(said: Said) -> None:
    line = next(line for line in said["limits"].splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def ssh(user: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Try to log in to the guest."""
    command = [
        "ssh",
        "-F",
        "none",
        "-p",
        "12222",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=60",
        "-o",
        "LogLevel=ERROR",
    ]
    command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", *options]
    return subprocess.run([*command, f"{user}@127.0.0.1", "true"], capture_output=True, text=True, check=False)


def test_no_login_by_password() -> None:
    tried = ssh("root", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive")
    assert tried.returncode == 255
    assert "Permission denied (publickey)" in tried.stderr


@pytest.mark.parametrize("user", ["vllmd", "nobody"])
def test_no_login_as_anybody_else(user: str) -> None:
    key = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "identity"
    tried = ssh(user, "-o", "IdentitiesOnly=yes", "-i", str(key))
    assert "Permission denied" in tried.stderr


def test_no_login_with_another_key(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    assert "Permission denied" in ssh("root", "-o", "IdentitiesOnly=yes", "-i", str(tmp_path / "key")).stderr
