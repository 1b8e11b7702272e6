"""Layers containerd, vLLM, model and runtime, running: who they are, where they listen, and what the model says."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://guest"]
API = "http://127.0.0.1:18000"
LISTENING = "0A"  # the state column of /proc/net/tcp
Said = dict[str, str]
UNITS = ["vllmd-configure", "vllm", "vllmd-firewall", "vllmd-ssh", "systemd-networkd", "acpid"]


@pytest.fixture(scope="module")
def said(ask: Callable[[dict[str, str]], Said]) -> Said:
    return ask(
        {
            "units": f"systemctl is-active {' '.join(UNITS)}",
            "containerd": "systemctl show --value --property=ActiveState containerd",
            **{name: f"cat /proc/net/{name}" for name in ("tcp", "tcp6", "udp", "udp6")},
            "status": "cat /proc/$(systemctl show --value --property=MainPID vllm)/status",
            "namespaces": "readlink /proc/1/ns/mnt /proc/$(systemctl show --value --property=MainPID vllm)/ns/mnt",
            "run": "stat --format='%n %U:%G %a' /run/vllmd/engine.* /run/vllmd/ssh/* /run/vllmd/config",
            "baked keys": "ls /etc/ssh/ssh_host_*",
            "containers": "ctr --namespace k8s.io containers list --quiet; ctr containers list --quiet",
            "addresses": "ip -brief address show scope global",
        }
    )


def fetch(path: str, body: dict | None = None, timeout: float = 60) -> bytes:
    """The guest's answer over the forwarded port."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(API + path, data, {"Content-Type": "application/json"})  # noqa: S310 - a constant
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        return response.read()


def test_our_units_run(said: Said) -> None:
    assert dict(zip(UNITS, said["units"].split(), strict=True)) == dict.fromkeys(UNITS, "active")


def test_containerd_runs_or_is_about_to(said: Said) -> None:
    """It steps back behind the engine; on an emulated CPU that takes its time."""
    assert said["containerd"] in ("active", "activating")


def test_only_our_ports_are_open(said: Said) -> None:
    """Sockets that other machines could reach; addresses in /proc/net/tcp are hexadecimal, 7F is loopback."""
    ports = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in said[table].splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            loopback = address.endswith("7F") or address == "00000000000000000000000001000000"
            if not loopback and (table.startswith("udp") or state == LISTENING):
                ports.add((table.rstrip("6"), int(port, 16)))
    assert ports == {("tcp", 22), ("tcp", 8000), ("tcp", 9100)}


def test_engine_is_unprivileged_and_confined(said: Said) -> None:
    fields = dict(line.split(":\t", 1) for line in said["status"].splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["700"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_engine_has_mounts_of_its_own(said: Said) -> None:
    first, engine = said["namespaces"].splitlines()
    assert first != engine


def test_secrets_of_the_runtime_are_not_for_everybody(said: Said) -> None:
    """The environment may hold tokens: the engine's group reads it, nobody else."""
    modes = dict(line.split(" ", 1) for line in said["run"].splitlines())
    assert modes["/run/vllmd/engine.env"] == "root:vllmd 640"
    assert modes["/run/vllmd/engine.yaml"] == "root:vllmd 640"
    assert modes["/run/vllmd/ssh/authorized_keys"] == "root:root 600"
    assert modes["/run/vllmd/ssh/host_key"] == "root:root 600"


def test_the_host_key_is_this_boots_own(said: Said) -> None:
    assert "No such file" in said["baked keys"]


def test_no_container_runs(said: Said) -> None:
    assert said["containers"] == "" or said["containerd"] == "activating"


def test_the_network_is_the_config_images(said: Said) -> None:
    assert [line.split()[0] for line in said["addresses"].splitlines()] == ["eth0"]
    assert "10.0.2.15/24" in said["addresses"]


def test_console_told_the_way() -> None:
    console = Path("/var/log/vllmd/molecule-image.log").read_text(encoding="utf-8", errors="replace")
    configured = console.index("vllmd: configured runtime=molecule-image")
    assert configured < console.index("vllmd: engine started")
    assert "vllmd: FAILED" not in console


def test_health_and_metrics() -> None:
    assert fetch("/health") == b""
    assert b"vllm:" in fetch("/metrics")


def test_the_model_knows_the_capital_of_france() -> None:
    question = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    answer = json.loads(fetch("/v1/chat/completions", question, timeout=900))
    assert "Paris" in answer["choices"][0]["message"]["content"]
