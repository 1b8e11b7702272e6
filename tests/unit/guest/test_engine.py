"""Small decisions of the engine's start, and what identifies a model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ELEMENTS

HEADER = "Iface\tDestination\tGateway\tFlags\n"


def test_a_default_route_is_told_from_a_link_route(engine: ModuleType) -> None:
    link = "eth0\t0002000A\t00000000\t0001\n"
    assert not engine.has_default_route(HEADER)
    assert not engine.has_default_route(HEADER + link)
    assert engine.has_default_route(HEADER + link + "eth0\t00000000\t0202000A\t0003\n")


def test_a_models_digest_is_its_files_and_their_names(models: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        (directory / "sub").mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "sub/weights").write_bytes(b"1")
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").chmod(0o600)
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").rename(second / "sub/weight")
    assert models.tree_digest(first) != models.tree_digest(second)


@pytest.fixture
def given(engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The options that configure.py wrote, for a model that the cache does not have."""
    monkeypatch.setattr(engine, "CONFIG", str(tmp_path / "given.yaml"))
    monkeypatch.setattr(engine, "RUN", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VLLMD_MODEL_SOURCE", raising=False)
    (tmp_path / "given.yaml").write_text(json.dumps({"model": "org/m", "port": 8000}))
    return tmp_path


def test_what_was_chosen_is_said_and_written(
    engine: ModuleType, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VLLMD_HARDWARE_PROFILE", raising=False)
    assert engine.choose() == str(given / "engine.yaml")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("vllmd: profile=none; no profile: cannot read /usr/lib/vllmd/profiles.json")
    assert json.loads((given / "engine.yaml").read_text())["port"] == 8000


def test_a_refusal_is_one_line_and_a_status_of_its_own(
    engine: ModuleType, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLMD_HARDWARE_PROFILE", "nvidia-a10")
    with pytest.raises(SystemExit) as ended:
        engine.choose()
    assert ended.value.code == engine.REFUSED
    assert capsys.readouterr().out.startswith("vllmd: FAILED: ")
    assert not (given / "engine.yaml").exists()
    unit = (ELEMENTS / "vllmd-runtime/static/usr/lib/systemd/system/vllm.service").read_text(encoding="utf-8")
    assert f"RestartPreventExitStatus={engine.REFUSED}\n" in unit


@pytest.mark.parametrize(
    ("result", "status", "line"),
    [
        ("success", "0", ""),
        ("exit-code", "78", ""),
        ("exit-code", "1", "vllmd: FAILED: the engine ended: exit-code (exited 1)\n"),
    ],
)
def test_an_engine_that_ended_says_so_unless_it_did_itself(result: str, status: str, line: str) -> None:
    script = ELEMENTS / "vllmd-runtime/static/usr/lib/vllmd/engine-stopped"
    environment = {"SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": status}
    done = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, line, "")
