"""The running guest: its services, its ports, its disk, and what its model says."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://guest"]
API = "http://127.0.0.1:18000"
LISTENING = "0A"  # the state column of /proc/net/tcp


def ask(path: str, body: dict | None = None, timeout: float = 60) -> bytes:
    """The guest's answer over the forwarded port."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(API + path, data, {"Content-Type": "application/json"})  # noqa: S310 - a constant
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        return response.read()


@pytest.fixture(scope="module")
def manifest() -> dict:
    """What the image's manifest says of it."""
    return json.loads(Path("/var/lib/vllmd/images/vllmd-cpu/latest/manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("unit", ["vllmd-configure", "vllm", "vllmd-ssh", "systemd-networkd"])
def test_our_units_run(host, unit: str) -> None:
    assert host.check_output(f"systemctl is-active {unit}.service") == "active"


def test_no_unit_failed(host) -> None:
    assert host.run("systemctl list-units --failed --no-legend --plain").stdout == ""
    assert host.run("systemctl is-system-running").stdout.strip() == "running"


def test_packages_are_those_of_the_manifest(host, manifest: dict) -> None:
    shown = host.check_output("dpkg-query --show --showformat='${Package} ${Version} ${db:Status-Abbrev}\\n'")
    installed = {name: version for name, version, status in map(str.split, shown.splitlines()) if status == "ii"}
    assert installed == manifest["packages"]
    assert {"containerd", "runc", "openssh-server", "systemd"} <= installed.keys()
    assert not {"cloud-init", "gcc", "busybox-static", "python3-venv"} & installed.keys()


def test_kernel_is_the_manifests(host, manifest: dict) -> None:
    assert host.check_output("uname --kernel-release") == manifest["kernel_release"]


def test_only_our_ports_are_open(host) -> None:
    """Sockets that other machines could reach; addresses in /proc/net/tcp are hexadecimal, 7F is loopback."""
    ports = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in host.file(f"/proc/net/{table}").content_string.splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            loopback = address.endswith("7F") or address == "00000000000000000000000001000000"
            if not loopback and (table.startswith("udp") or state == LISTENING):
                ports.add((table.rstrip("6"), int(port, 16)))
    assert ports == {("tcp", 22), ("tcp", 8000), ("tcp", 9100)}


def test_the_root_file_system_is_read_only_underneath(host) -> None:
    assert host.check_output("findmnt --noheadings --output FSTYPE /") == "overlay"
    assert host.file("/sys/block/vda/ro").content_string.strip() == "1"
    assert host.run("dd if=/dev/zero of=/dev/vda bs=512 count=1").rc != 0
    host.check_output("touch /etc/written-by-test && rm /etc/written-by-test")


def test_engine_is_unprivileged_and_confined(host) -> None:
    pid = host.check_output("systemctl show --value --property=MainPID vllm.service")
    status = host.file(f"/proc/{pid}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["990"] * 4
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_console_told_the_way() -> None:
    console = Path("/var/log/vllmd/molecule-image.log").read_text(encoding="utf-8", errors="replace")
    configured = console.index("vllmd: configured runtime=molecule-image")
    assert configured < console.index("vllmd: engine started")
    assert "vllmd: FAILED" not in console


def test_the_host_key_is_this_boots_own(host) -> None:
    assert host.file("/run/vllmd/ssh/host_key").exists
    assert host.run("ls /etc/ssh/ssh_host_*").rc != 0


def test_health_and_metrics() -> None:
    assert ask("/health") == b""
    assert b"vllm:" in ask("/metrics")


def test_the_model_knows_the_capital_of_france() -> None:
    question = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    answer = json.loads(ask("/v1/chat/completions", question, timeout=900))
    assert "Paris" in answer["choices"][0]["message"]["content"]
