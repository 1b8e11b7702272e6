"""Kubernetes' programs for test hosts: built once for one set of inputs, published whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "molecule/shared"
# The module as its own process, with an archive that unpacks nothing: what is built is up to the recipe.
RUNNER = """
import importlib.util, runpy, sys
import ansible.module_utils
spec = importlib.util.spec_from_file_location("ansible.module_utils.debian_download", sys.argv[2])
download = importlib.util.module_from_spec(spec)
spec.loader.exec_module(download)
class Archive:
    def __init__(self, release, work): work.mkdir()
    def packages(self, wanted, tree): tree.mkdir()
    def source(self, name, version, tree): tree.mkdir()
download.Archive = Archive
ansible.module_utils.debian_download = sys.modules[spec.name] = download
module, sys.argv = sys.argv[1], [sys.argv[1], sys.argv[3]]
runpy.run_path(module, run_name="__main__")
"""
PROGRAMS = "kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubeadm kubectl kubelet crictl"
BUILD = f"""#!/bin/sh -eu
echo built >>"$(dirname "$0")/../count"
mkdir "$3"
for name in {PROGRAMS}; do
    printf '#!/bin/sh\\necho Kubernetes v1.20.2\\n' >"$3/$name"
    chmod +x "$3/$name"
done
"""
HANGING = """#!/bin/sh -eu
mkdir "$3"
echo half >"$3/kubelet"
sleep 300 &
echo $! >"$(dirname "$0")/../pid"
wait
"""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Arguments of the module: a recipe that builds at once, and a cache of the test's own."""
    (tmp_path / "recipe").mkdir()
    write_recipe(tmp_path, BUILD)
    return {
        "source": "1.20.2-1",
        "packages": {"golang": "1"},
        "recipe": str(tmp_path / "recipe"),
        "cache": str(tmp_path / "cache"),
    }


def write_recipe(tmp_path: Path, text: str) -> None:
    """Make `text` the recipe's build script."""
    script = tmp_path / "recipe/build"
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)


def start(given: dict[str, Any], tmp_path: Path) -> subprocess.Popen[str]:
    """Start the module."""
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {**given, "_ansible_remote_tmp": str(tmp_path)}}))
    words = [str(SHARED / "library/kubernetes_programs.py"), str(SHARED / "module_utils/debian_download.py")]
    command = [sys.executable, "-c", RUNNER, *words, str(arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(given: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Run the module to its end; its answer."""
    output, errors = start(given, tmp_path).communicate(timeout=60)
    assert "Traceback" not in errors, errors
    answer: dict[str, Any] = json.loads(output)
    assert len(str(answer.get("msg", "")).splitlines()) <= 1, answer
    return answer


def left_in(cache: Path) -> list[str]:
    """What lies in the cache besides locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def wait_for_build(tmp_path: Path) -> int:
    """Wait until the hanging recipe is in the middle of its work; the process it waits for."""
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline, "the recipe was not started"
        time.sleep(0.05)
    return int((tmp_path / "pid").read_text())


def test_the_same_inputs_are_built_once(given: dict[str, Any], tmp_path: Path) -> None:
    first, second = run(given, tmp_path), run(given, tmp_path)
    assert (first["changed"], first["version"]) == (True, "1.20.2")
    assert (second["changed"], second["seconds"], second["path"]) == (False, 0.0, first["path"])
    assert (tmp_path / "count").read_text().splitlines() == ["built"]
    assert left_in(tmp_path / "cache") == [Path(first["path"]).name]


@pytest.mark.parametrize("changed", ["source", "packages", "recipe"])
def test_other_inputs_are_another_build(given: dict[str, Any], tmp_path: Path, changed: str) -> None:
    first = run(given, tmp_path)
    if changed == "recipe":
        write_recipe(tmp_path, BUILD + "# another\n")
    else:
        given[changed] = {"source": "1.20.2-2", "packages": {"golang": "2"}}[changed]
    second = run(given, tmp_path)
    assert second["changed"]
    assert second["path"] != first["path"]


def test_two_at_a_time_build_once(given: dict[str, Any], tmp_path: Path) -> None:
    answers = [process.communicate(timeout=60)[0] for process in [start(given, tmp_path), start(given, tmp_path)]]
    assert sorted(json.loads(answer)["changed"] for answer in answers) == [False, True]
    assert (tmp_path / "count").read_text().splitlines() == ["built"]


def test_a_failed_build_says_why_and_leaves_nothing(given: dict[str, Any], tmp_path: Path) -> None:
    write_recipe(tmp_path, '#!/bin/sh\nmkdir "$3"\necho half >"$3/kubelet"\necho no compiler >&2\nexit 3\n')
    answer = run(given, tmp_path)
    assert answer["failed"]
    assert "failed with 3: no compiler" in answer["msg"]
    assert left_in(tmp_path / "cache") == []


def test_an_incomplete_build_is_not_published(given: dict[str, Any], tmp_path: Path) -> None:
    write_recipe(tmp_path, BUILD + 'rm "$3/kube-proxy"\n')
    assert "has no kube-proxy" in run(given, tmp_path)["msg"]
    assert left_in(tmp_path / "cache") == []


def test_an_interrupted_build_leaves_nothing(given: dict[str, Any], tmp_path: Path) -> None:
    write_recipe(tmp_path, HANGING)
    process = start(given, tmp_path)
    compiler = wait_for_build(tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left_in(tmp_path / "cache") == []
    status = Path(f"/proc/{compiler}/stat")
    assert not status.exists() or " Z " in status.read_text()


def test_what_a_killed_build_left_is_removed_by_the_next(given: dict[str, Any], tmp_path: Path) -> None:
    write_recipe(tmp_path, HANGING)
    process = start(given, tmp_path)
    compiler = wait_for_build(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    os.kill(compiler, signal.SIGKILL)
    (leftover,) = left_in(tmp_path / "cache")
    # The same key: as if the hanging recipe had been this one.
    write_recipe(tmp_path, BUILD)
    name = Path(run({**given, "cache": str(tmp_path / "elsewhere")}, tmp_path)["path"]).name
    (tmp_path / "cache" / leftover).rename(tmp_path / f"cache/.{name}.killed")
    run(given, tmp_path)
    assert left_in(tmp_path / "cache") == [name]


def test_an_operators_directory_is_used_as_it_is(given: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in PROGRAMS.split():
        (own / name).write_text("#!/bin/sh\necho v1.33.4+vendor.1\n")
        (own / name).chmod(0o755)
    answer = run({**given, "directory": str(own)}, tmp_path)
    assert (answer["path"], answer["version"], answer["changed"]) == (str(own), "1.33.4", False)
    (own / "kubelet").write_text("#!/bin/sh\necho v1.32.0\n")
    assert "versions 1.32.0 and 1.33.4" in run({**given, "directory": str(own)}, tmp_path)["msg"]
    (own / "kubelet").unlink()
    assert "has no kubelet" in run({**given, "directory": str(own)}, tmp_path)["msg"]
