"""Metrics of GPUs from NVML's answers, the bundle for support, and that no secret leaves with it."""

from __future__ import annotations

import ctypes
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllmd_node import diagnose, nvml, redact

from .conftest import ELEMENT, calm

SECRET = "correct horse/battery$staple"


class Library:
    """NVML as two GPUs answer it; the second one knows less."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def nvmlInit_v2(self) -> int:
        return self.code

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetUUID(self, device: ctypes.c_void_p, buffer: Any, _length: Any) -> int:
        buffer.value = b"GPU-%d" % (device.value or 0)
        return 0

    def nvmlDeviceGetName(self, _device: ctypes.c_void_p, buffer: Any, _length: Any) -> int:
        buffer.value = b'NVIDIA "X"'
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: ctypes.c_void_p, memory: Any) -> int:
        memory._obj.total, memory._obj.used = 24 * 2**30, 2**30
        return 0 if device.value == 1 else 3

    def nvmlDeviceGetTotalEccErrors(
        self, _device: ctypes.c_void_p, kind: ctypes.c_uint, _counter: ctypes.c_uint, value: Any
    ) -> int:
        value._obj.value = 10 + kind.value
        return 0

    def nvmlDeviceGetPowerUsage(self, _device: ctypes.c_void_p, value: Any) -> int:
        value._obj.value = 72500
        return 0


def test_gpus_become_metrics(tmp_path: Path) -> None:
    path = tmp_path / "gpu.prom"
    assert nvml.main(str(path), Library(), lambda _seconds: None, 2) == 0
    lines = path.read_text().splitlines()
    first = '{gpu="0",uuid="GPU-1",name="NVIDIA \\"X\\""}'
    assert f"vllmd_gpu_memory_total_bytes{first} 2.576980378e+10" in lines
    assert f"vllmd_gpu_power_watts{first} 72.5" in lines
    assert f"vllmd_gpu_ecc_uncorrected_errors_total{first} 11" in lines
    assert len([line for line in lines if line.startswith("vllmd_gpu_memory_used_bytes{")]) == 1
    assert not any("temperature" in line for line in lines)
    # https://prometheus.io/docs/instrumenting/exposition_formats/
    form = re.compile(r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? [0-9.e+]+')
    assert all(form.fullmatch(line) for line in lines)


def test_nvml_that_does_not_start_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nvml.main(str(tmp_path / "gpu.prom"), Library(18)) == 1
    assert capsys.readouterr().err == (
        "vllmd-gpu-metrics: NVML does not start (code 18); is the driver of the same version loaded?\n"
    )
    assert nvml.main(str(tmp_path / "gpu.prom")) == 1
    assert "cannot load libnvidia-ml.so.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *[("HF_TOKEN", True), ("api-key", True), ("OPENAI_API_KEY", True), ("apiKey", True), ("DB_PASSWORD", True)],
        *[("Authorization", True), ("max-num-batched-tokens", False), ("tokenizer", False), ("tokenizer-mode", False)],
        *[("ssl-keyfile", False), ("ssh_key_path", False), ("monkey", False), ("kv-cache-dtype", False)],
    ],
)
def test_secret_names(name: str, secret: bool) -> None:
    assert redact.is_secret(name) is secret


@pytest.mark.parametrize(
    "line",
    [
        "HF_TOKEN=hf_abcdefghijklmnopqrstuvwx",
        'export HF_TOKEN="s3cr3ts3cr3t"',
        "INFO args: Namespace(api_key='s3cr3ts3cr3t', port=8000)",
        '{"api-key": "s3cr3ts3cr3t", "port": 1}',
        "python -m vllm --api-key s3cr3ts3cr3t --port 8000",
        "GET / Authorization: Bearer s3cr3ts3cr3t",
        "curl -H 'Authorization: Basic s3cr3ts3cr3t=='",
        "proxy http://user:s3cr3ts3cr3t@proxy:3128/",
        "token hf_s3cr3ts3cr3ts3cr3t found",
        "login with ghp_s3cr3ts3cr3ts3cr3t",
        "jwt eyJhbGciOiJI.s3cr3ts3cr3t.s3cr3ts3cr3t",
        "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cr3ts3cr3t\n-----END OPENSSH PRIVATE KEY-----",
        '"pem": "-----BEGIN RSA PRIVATE KEY-----\\ns3cr3ts3cr3t',
        "AKIAS3CR3TS3CR3TS3CR",
    ],
)
def test_lines_that_hold_a_secret(line: str) -> None:
    shown = redact.text(line)
    assert "s3cr3t" not in shown.lower().replace("hf_abcdefghijklmnopqrstuvwx", "s3cr3t")
    assert redact.HIDDEN in shown


@pytest.mark.parametrize(
    "line",
    [
        "max-num-batched-tokens: 2048",
        "INFO tokenizer='m', tokenizer_mode=auto, enforce_eager=True",
        'vllm:prompt_tokens_total{model_name="m"} 12.0',
        "vllmd: configured runtime=r1",
        "api_key=None",
        "ListenStream=/run/x.sock key 7",
    ],
)
def test_lines_that_hold_none_stay(line: str) -> None:
    assert redact.text(line) == line


def test_an_environment_shows_what_is_known_to_be_open() -> None:
    text = 'HOME=/x\nVLLM_CPU_KVCACHE_SPACE="4"\nMY_OWN="a \\"b\\" \\$c"\n# comment\nVLLM_API_KEY="x"\n'
    found = redact.environment_text(text)
    assert found == {"HOME": "/x", "VLLM_CPU_KVCACHE_SPACE": "4", "MY_OWN": 'a "b" $c', "VLLM_API_KEY": "x"}
    assert [redact.is_open(name) for name in found] == [True, True, False, False]
    assert redact.secrets_of({"A": "short", "B": "longer secret", "HOME": "/long/enough"}) == ["longer secret"]


@calm
@given(secret=st.text(min_size=6, max_size=40), before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_value_of_the_environment_is_hidden_wherever_it_turns_up(secret: str, before: str, after: str) -> None:
    shown = redact.text(before + secret + after, [secret])
    if secret not in redact.HIDDEN + before + after:
        assert secret not in shown.replace(redact.HIDDEN, "")


@calm
@given(content=st.text(max_size=300))
def test_any_text_is_survived_and_stays_hidden(content: str) -> None:
    once = redact.text(content)
    assert redact.text(once) == once or redact.HIDDEN in once


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """The files of a guest whose runtime has a secret in its environment and one in its options."""
    runtime = {
        "name": "r1",
        "engine": {"api-key": "engine-option-secret", "dtype": "auto"},
        "environment": {"UPSTREAM": SECRET, "OMP_NUM_THREADS": "2"},
        "ssh_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1 somebody"],
    }
    options = {"model": "m", "port": 1, "api-key": "engine-option-secret", "max-num-batched-tokens": 2048}
    quoted = SECRET.replace("$", "\\$")
    for path, content in {
        "run/vllmd/config/vllmd/runtime.json": json.dumps(runtime),
        "run/vllmd/engine.yaml": json.dumps(options),
        "run/vllm/engine.yaml": "{broken",
        "run/vllmd/engine.env": f'VLLMD_MODEL_SOURCE=local\nUPSTREAM="{quoted}"\nOMP_NUM_THREADS="2"\n',
        "run/vllmd/metrics/node.prom": f"vllmd_node_gpus 0\n# {SECRET}\n",
        "usr/share/vllmd/facts.d/profile.json": '"cpu"\n',
        "proc/cmdline": "root=/dev/vda vllmd.uid=x\n",
    }.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return tmp_path / "root"


def unpack(content: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert all(member.mode == 0o600 for member in archive.getmembers())
        names = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read().decode() for name, file in names.items() if file}


@pytest.fixture(autouse=True)
def _few_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {"echo.txt": ["echo", f"started with {SECRET}"], "none.txt": ["no-such-command"], "bad.txt": ["false"]}
    monkeypatch.setattr(diagnose, "COMMANDS", commands)


def test_a_bundle_holds_what_helps_and_no_secret(
    guest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bundle.tar.gz"
    assert diagnose.main(["--output", str(path)], guest) == 0
    assert re.fullmatch(r".*bundle\.tar\.gz: \d+ files, \d+ KiB, secrets hidden\n", capsys.readouterr().out)
    assert path.stat().st_mode & 0o777 == 0o600
    files = unpack(path.read_bytes())
    everything = "\n".join(files.values())
    assert SECRET not in everything
    assert "engine-option-secret" not in everything
    assert "AAAAC3NzaC1" not in everything
    assert files["environment.txt"] == "VLLMD_MODEL_SOURCE=local\nUPSTREAM=(hidden)\nOMP_NUM_THREADS=2\n"
    runtime = json.loads(files["runtime.json"])
    assert runtime["engine"] == {"api-key": "(hidden)", "dtype": "auto"}
    assert runtime["environment"] == {"UPSTREAM": "(hidden)", "OMP_NUM_THREADS": "2"}
    assert runtime["ssh_authorized_keys"] == ["ssh-ed25519 somebody"]
    assert json.loads(files["engine-given.json"])["max-num-batched-tokens"] == 2048
    assert files["echo.txt"] == "started with (hidden)\n"
    assert files["image/profile.json"] == '"cpu"\n'
    assert "none.txt: no-such-command: No such file or directory" in files["missing.txt"]
    assert "bad.txt: false ended with 1" in files["missing.txt"]
    assert "engine-health.txt: http://127.0.0.1:1/health does not answer" in files["missing.txt"]
    assert "node.json: /run/vllm/node.json is not there" in files["missing.txt"]


def test_where_the_bundle_goes(guest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose.main(["--output", str(tmp_path)], guest) == 0
    (path,) = tmp_path.glob("vllmd-diagnose-*.tar.gz")
    assert unpack(path.read_bytes())
    capsys.readouterr()
    assert diagnose.main(["--output", str(tmp_path / "none/x")], guest) == 1
    error = capsys.readouterr().err
    assert error.startswith("vllmd-diagnose: cannot write ")
    assert error.count("\n") == 1
    assert list(tmp_path.glob(".*partial")) == []


def test_the_command_explains_itself() -> None:
    script = ELEMENT / "static/usr/bin/vllmd-diagnose"
    assert script.stat().st_mode & 0o111
    code = script.read_text(encoding="utf-8").replace("/usr/lib/vllmd", str(ELEMENT / "static/usr/lib/vllmd"))
    done = subprocess.run([sys.executable, "-", "--help"], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ssh root@guest vllmd-diagnose --output - > bundle.tar.gz" in done.stdout
