"""The module on captured machines, and the playbook with its files and exit statuses, as users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import modules, trees

ROOT = Path(__file__).parents[3]
MACHINES = ("hgx-h100", "epyc-l40s", "desktop", "grace-hopper")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the roots of the captured machines."""
    directory = tmp_path_factory.mktemp("machines")
    captured = ROOT / "tests/unit/data/hosts"
    return {name: trees.materialise(trees.load(captured / f"{name}.tree.json"), directory / name) for name in MACHINES}


def found(report: dict[str, Any], check: str) -> list[tuple[str, list[str]]]:
    return [(item["status"], item["subjects"]) for item in report["findings"] if item["id"] == check]


def test_a_server_with_eight_gpus(machines: dict[str, Path], tmp_path: Path) -> None:
    arguments = {"root": str(machines["hgx-h100"]), "policy": {"accelerator_count": 8}}
    result = modules.run("precheck", arguments, tmp_path)
    report = result["report"]
    assert not result["changed"]
    assert found(report, "accelerator-count") == [("PASS", [])]
    assert [status for status, _subjects in found(report, "nvswitch")] == ["INFO"]
    assert len(found(report, "open-handles")[0][1]) == 8
    assert [node["title"].split(":")[0] for node in report["topology"]["nodes"]] == ["NUMA node 0", "NUMA node 1"]
    assert report["exit_status"] == 2


def test_a_desktop_whose_card_brings_its_companions(machines: dict[str, Path], tmp_path: Path) -> None:
    report = modules.run("precheck", {"root": str(machines["desktop"])}, tmp_path)["report"]
    companions = next(item for item in report["findings"] if item["id"] == "group-companions")
    assert companions["status"] == "INFO"
    assert all(f"0000:01:00.{function}" in companions["evidence"] for function in (1, 2, 3))


def test_grace_hopper_wants_its_own_vfio_driver_and_has_no_x86_flag(machines: dict[str, Path], tmp_path: Path) -> None:
    report = modules.run("precheck", {"root": str(machines["grace-hopper"])}, tmp_path)["report"]
    assert found(report, "cpu-virtualization") == [("SKIP", [])]
    assert found(report, "link-width")[0][0] == "INFO"
    assert "nvgrace" in next(item["evidence"] for item in report["findings"] if item["id"] == "vfio-variant")


def test_a_policy_may_name_packages_and_a_directory_of_its_own(machines: dict[str, Path], tmp_path: Path) -> None:
    policy = {"packages": ["no-such-package"], "image_directory": "/srv/images"}
    report = modules.run("precheck", {"root": str(machines["epyc-l40s"]), "policy": policy}, tmp_path)["report"]
    assert found(report, "packages-required")[0][0] == "FAIL"
    assert "/srv/images" not in next(
        item["evidence"] for item in report["findings"] if item["id"] == "image-filesystem"
    )


@pytest.mark.parametrize("policy", [{"stric": True}, {"minimum_cpus": "many"}])
def test_a_wrong_policy_is_one_line(policy: dict[str, Any], tmp_path: Path) -> None:
    result = modules.run("precheck", {"policy": policy}, tmp_path)
    assert result["failed"] and result["msg"].startswith("precheck: policy key ")


def test_an_empty_directory_is_a_host_that_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = modules.run("precheck", {"root": str(tmp_path / "empty")}, tmp_path)["report"]
    assert report["verdict"] == "not ready"
    assert [status for status, _subjects in found(report, "facts-complete")] == ["FAIL"]


def play(roots: dict[str, Path], directory: Path, *options: str, **variables: Any) -> tuple[int, str]:
    """Run scripts/precheck on captured machines; return its exit status and what it said."""
    hosts = {name: {"precheck_root": str(root)} for name, root in roots.items()}
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **variables}
    inventory = directory / "inventory.json"
    inventory.write_text(json.dumps({"hypervisors": {"hosts": hosts, "vars": common}}))
    environment = {
        **os.environ,
        "VLLMD_VENV": sys.prefix,
        "VLLMD_PRECHECK_DIR": str(directory / "reports"),
        "ANSIBLE_LOCAL_TEMP": str(directory / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [str(ROOT / "scripts/precheck"), "-i", str(inventory), *options]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_exit_statuses_files_and_changes(machines: dict[str, Path], tmp_path: Path) -> None:
    one = {"gpu-02": machines["epyc-l40s"]}
    status, said = play(one, tmp_path)
    assert status == 0, said
    assert "gpu-02: WARNINGS" in said
    assert "report: " in said
    reports = tmp_path / "reports"
    written = {"fleet.json", "index.html", "gpu-02.html", "gpu-02.json", "gpu-02.txt"}
    assert {path.name for path in reports.iterdir()} == written

    status, said = play(one, tmp_path, precheck_policy={"strict": True}, precheck_show="problems")
    assert status == 1, said
    assert "changed=0" in said, "the same findings again are no change"
    assert "PASS " not in said.partition("STATUS")[2]

    status, said = play(one, tmp_path, "--diff", precheck_policy={"accelerator_count": 3})
    assert status == 2, said
    assert "-accelerator-count : PASS" in said and "+accelerator-count : FAIL" in said
    assert "not ready: accelerator-count; see " in said


def test_check_mode_judges_and_writes_nothing(machines: dict[str, Path], tmp_path: Path) -> None:
    status, said = play({"desk": machines["desktop"]}, tmp_path, "--check")
    assert status == 2, said
    assert "desk: NOT READY" in said
    assert not (tmp_path / "reports").exists()


def test_a_host_out_of_reach_is_not_ready_and_named(machines: dict[str, Path], tmp_path: Path) -> None:
    roots = {"gpu-02": machines["epyc-l40s"], "gone": machines["desktop"]}
    python = {"gone": "/no/such/python", "gpu-02": sys.executable}
    expression = "{{ " + repr(python) + "[inventory_hostname] }}"
    status, said = play(roots, tmp_path, ansible_python_interpreter=expression)
    assert status == 2, said
    fleet = json.loads((tmp_path / "reports/fleet.json").read_text())
    assert fleet["missing"] == ["gone"]
    assert fleet["verdict"] == "not ready"
