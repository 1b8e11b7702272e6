"""What the guest found out by itself, what it keeps, what it tells of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

testinfra_hosts = ["ansible://guest"]
UNREAD_WORD = "heron-lantern-quarry"  # in the runtime's environment


def test_the_cpu_profile_was_chosen(host) -> None:
    node = json.loads(host.file("/run/vllm/node.json").content_string)
    assert node["profile"] == "cpu"
    assert node["hardware"]["cpus"] == 1
    assert node["hardware"]["gpus"] == []
    assert node["model"]["architecture"] == "LlamaForCausalLM"
    assert node["model"]["parameters"] == 134_515_008
    assert node["figures"]["weights_bytes"] == 4 * 134_515_008


def test_what_the_runtime_says_wins_over_the_profile(host) -> None:
    given = json.loads(host.file("/run/vllmd/engine.yaml").content_string)
    chosen = json.loads(host.file("/run/vllm/engine.yaml").content_string)
    assert chosen.items() >= given.items()
    assert given["max-num-seqs"] == 2
    # 64 MiB hold more than the 512 tokens asked for, so nothing had to be chosen.
    assert chosen == given


def test_the_console_names_the_profile() -> None:
    console = Path("/var/log/vllmd/molecule-image.log").read_text(encoding="utf-8", errors="replace")
    assert (
        console.index("vllmd: engine started") < console.index("vllmd: profile=cpu") < console.index("vllmd: healthy")
    )


def test_the_cache_disk_is_mounted_and_in_use(host) -> None:
    mount = host.mount_point("/var/lib/vllmd/disk")
    assert mount.exists
    assert mount.filesystem == "ext4"
    assert {"nosuid", "nodev", "rw"} <= set(mount.options)
    for name in ("huggingface", "vllm", "inductor", "triton"):
        directory = host.file(f"/var/lib/vllmd/disk/{name}")
        assert (directory.user, directory.group, directory.mode) == ("vllmd", "vllmd", 0o750)
    pid = host.check_output("systemctl show --value --property=MainPID vllm.service")
    environment = host.file(f"/proc/{pid}/environ").content_string.split("\0")
    assert {"HF_HOME=/var/lib/vllmd/disk/huggingface", "VLLM_CACHE_ROOT=/var/lib/vllmd/disk/vllm"} <= set(environment)


def test_what_the_build_looked_up_is_on_the_cache_disk(host) -> None:
    assert host.check_output("find /var/lib/vllmd/disk/vllm/modelinfos -name '*.json'")


def test_node_exporter_serves_the_guest_and_the_decision(host) -> None:
    assert host.check_output("systemctl is-active vllmd-node-exporter.service") == "active"
    metrics = host.check_output(
        "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:9100/metrics\").read().decode())'"
    )
    assert 'vllmd_node_profile_info{profile="cpu"} 1' in metrics
    assert re.search(r"^node_memory_MemTotal_bytes [0-9.e+]+$", metrics, re.MULTILINE)
    assert 'vllmd_node_fit_bytes{figure="weights_bytes"}' in metrics
    assert "node_textfile_scrape_error 0" in metrics


def test_gpu_metrics_wait_for_a_driver(host) -> None:
    assert host.check_output("systemctl show --value --property=ConditionResult vllmd-gpu-metrics.service") == "no"


def test_monitoring_came_after_the_engine_was_healthy(host) -> None:
    started = "systemctl show --value --property=ActiveEnterTimestampMonotonic "
    ended = "systemctl show --value --property=ExecMainExitTimestampMonotonic "
    exporter = int(host.check_output(f"{started} vllmd-node-exporter.service"))
    assert 0 < int(host.check_output(f"{ended} vllmd-healthy.service")) < exporter


def test_a_bundle_for_support_has_no_secret(host) -> None:
    host.check_output("rm -f /tmp/bundle.tar.gz && vllmd-diagnose --output /tmp/bundle.tar.gz")
    bundle = host.file("/tmp/bundle.tar.gz")
    assert (bundle.user, bundle.mode) == ("root", 0o600)
    names = {name.partition("/")[2] for name in host.check_output("tar -tzf /tmp/bundle.tar.gz").splitlines()}
    assert {"units.txt", "journal.txt", "kernel.txt", "runtime.json", "node.json", "engine-chosen.json"} <= names
    assert {"engine-metrics.txt", "node-exporter.txt", "environment.txt", "image/wheels.json"} <= names
    assert host.run("grep -q %s /run/vllmd/engine.env", UNREAD_WORD).rc == 0
    assert host.run("tar -xzOf /tmp/bundle.tar.gz | grep -c %s", UNREAD_WORD).stdout.strip() == "0"
    host.check_output("rm /tmp/bundle.tar.gz")
