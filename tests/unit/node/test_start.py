"""From a guest's files to the file of options that vLLM reads, and to what the hub says of a model."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllmd_node import decide, model, profiles, remote, start

from .conftest import ELEMENT, write_sysfs
from .test_model import SMOLLM2

Make = Callable[..., Path]


@pytest.fixture
def profiles_file(tmp_path: Path, shipped: dict[str, dict[str, Any]]) -> str:
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps(shipped))
    return str(path)


def test_a_cpu_guest_from_its_files(tmp_path: Path, profiles_file: str, model_directory: Make) -> None:
    directory = model_directory(SMOLLM2, {"model.safetensors": {"a": ("BF16", 269_000_000)}})
    root = write_sysfs(tmp_path / "root", [])
    given = {"model": str(directory), "port": 8000, "max-num-seqs": 2}
    decision, node = start.plan(given, {"VLLMD_MODEL_SOURCE": "local"}, str(root), profiles_file)
    assert decision.profile == "cpu"
    assert decision.options.items() >= given.items()
    assert node["added"].keys() == {"dtype", "enforce-eager", "kv-cache-memory-bytes"}
    assert node["model"]["parameters"] == 134_500_000
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    path = start.write(str(tmp_path), decision, node, str(metrics))
    assert json.loads(Path(path).read_text()) == decision.options
    assert json.loads((tmp_path / "node.json").read_text())["profile"] == "cpu"
    text = (metrics / "node.prom").read_text()
    assert 'vllmd_node_profile_info{profile="cpu"} 1\n' in text
    assert "vllmd_node_gpus 0\n" in text
    assert 'vllmd_node_fit_bytes{figure="weights_bytes"} 538000000\n' in text
    assert sorted(each.name for each in tmp_path.glob("*.partial")) == []


def test_a_damaged_model_in_the_image_is_refused(tmp_path: Path, profiles_file: str, model_directory: Make) -> None:
    directory = model_directory(SMOLLM2, {})
    (directory / "model.safetensors").write_bytes(b"half")
    root = write_sysfs(tmp_path / "root", [])
    with pytest.raises(decide.Refusal, match="not a safetensors file"):
        start.plan({"model": str(directory)}, {"VLLMD_MODEL_SOURCE": "local"}, str(root), profiles_file)


def test_an_unknown_profile_by_name_is_refused(tmp_path: Path, profiles_file: str) -> None:
    root = write_sysfs(tmp_path / "root", [])
    environment = {"VLLMD_HARDWARE_PROFILE": "nvidia-a11", "HF_HUB_OFFLINE": "1"}
    with pytest.raises(decide.Refusal, match="profile nvidia-a11 is not in this image"):
        start.plan({"model": "org/m"}, environment, str(root), profiles_file)


def test_without_profiles_the_options_stay_as_given(tmp_path: Path) -> None:
    root = write_sysfs(tmp_path / "root", [("0000:01:00.0", "10de:2236", "0x030200")])
    given = {"model": "org/m"}
    decision, _node = start.plan(given, {"HF_HUB_OFFLINE": "1"}, str(root), str(tmp_path / "none.json"))
    assert decision.options == given
    assert "no profile: cannot read" in decision.reasons[0]
    assert "org/m is not in the model cache" in decision.reasons[1]


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the hub's API."""

    token = ""

    def do_GET(self) -> None:
        about = {"safetensors": {"parameters": {"BF16": 1000, "F8_E4M3": 10, "I5": 3, "X": -1}}}
        answers = {
            "/api/models/org/m/revision/main": json.dumps(about),
            "/org/m/resolve/main/config.json": json.dumps(SMOLLM2),
            "/api/models/org/broken/revision/main": "<html>",
        }
        Hub.token = self.headers.get("Authorization", "")
        self.send_response(200 if self.path in answers else 404)
        self.end_headers()
        self.wfile.write(answers.get(self.path, "").encode())

    def log_message(self, *arguments: Any) -> None:
        del arguments


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_the_hub_says_what_a_model_is_like(hub: str) -> None:
    found = remote.find("org/m", "main", {"HF_ENDPOINT": hub, "HF_TOKEN": "secret"})
    assert (found.layers, found.stored_bytes) == (30, 2013)
    assert Hub.token == "Bearer secret"


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("org/none", "/api/models/org/none/revision/main answers 404"),
        ("org/broken", "answer on org/broken is not a JSON"),
    ],
)
def test_a_hub_that_does_not_know_is_one_line(hub: str, repository: str, expected: str) -> None:
    with pytest.raises(model.ModelError, match=expected):
        remote.find(repository, "main", {"HF_ENDPOINT": hub})


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "file:///etc/passwd", "http://[", "https://"])
def test_a_hub_that_is_not_there_is_one_line(endpoint: str) -> None:
    with pytest.raises(model.ModelError) as caught:
        remote.find("org/m", "main", {"HF_ENDPOINT": endpoint})
    assert "\n" not in str(caught.value)


def test_the_model_cache_is_read_first(tmp_path: Path, model_directory: Make) -> None:
    base = tmp_path / "hf/hub/models--org--m"
    (base / "refs").mkdir(parents=True)
    (base / "refs/main").write_text("abc123")
    (base / "snapshots").mkdir()
    model_directory(SMOLLM2, {"model.safetensors": {"a": ("BF16", 100)}}).rename(base / "snapshots/abc123")
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    assert remote.find("org/m", "main", environment).stored_bytes == 100
    assert remote.find("org/m", "abc123", environment).stored_bytes == 100
    with pytest.raises(model.ModelError, match="HF_HUB_OFFLINE is set"):
        remote.find("org/other", "main", environment)


def test_the_guests_own_list_of_profiles_is_where_the_element_writes_it() -> None:
    script = (ELEMENT / "install.d/80-vllmd-runtime").read_text(encoding="utf-8")
    assert profiles.FILE in script
