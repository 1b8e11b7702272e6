"""Real runs of ansible-playbook on this machine, of what changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vllmdctl.commands.initialize import accelerators, make_inventory
from vllmdctl.errors import FAILED, INTERRUPTED, REFUSED, USAGE

from .conftest import HOSTS, MANIFEST, ROOT, Ctl

NAME = "vllmdctl-test"
RUNTIME = MANIFEST.replace("name: smollm2\n", f"name: {NAME}\n", 1)


@pytest.fixture
def described(inventory: Path) -> Path:
    """The inventory with one runtime that was never started."""
    (inventory / "runtimes" / f"{NAME}.yaml").write_text(RUNTIME)
    return inventory


def test_list_and_status(ctl: Ctl, described: Path) -> None:
    done = ctl("runtimes", "list", "-o", "json")
    (row,) = [row for row in json.loads(done.stdout) if row["id"] == NAME]
    assert (row["state"], row["model"], row["url"]) == ("absent", "smollm2-135m-instruct", "http://127.0.0.1:8000")
    assert done.returncode == 0
    done = ctl("runtimes", "status", "vllmdctl-t", "-v")
    assert done.returncode == 3
    assert "absent" in done.stdout
    assert "ansible-playbook" in done.stderr
    done = ctl("runtimes", "logs", "vlmdctl-test")
    assert (done.returncode, f"did you mean {NAME}?" in done.stderr) == (USAGE, True)


def test_the_shown_command_works_by_hand(ctl: Ctl, described: Path, tmp_path: Path) -> None:
    shown = ctl("runtimes", "list", "-v").stderr.splitlines()[0]
    assert subprocess.run(shown, shell=True, cwd=tmp_path, check=False, capture_output=True).returncode == 0  # noqa: S602


def test_a_plan_shows_the_difference_and_writes_nothing(ctl: Ctl, inventory: Path, tmp_path: Path) -> None:
    path = tmp_path / "runtime.yaml"
    path.write_text(RUNTIME)
    before = sorted(inventory.rglob("*"))
    planned = json.loads(ctl("plan", str(path), "--memory", "split", "-o", "json").stdout)
    assert planned["settings"]["memory"] == "split"
    assert NAME in {each["id"] for each in planned["changes"]} | {each["runtime"] for each in planned["unplaced"]}
    assert sorted(inventory.rglob("*")) in (before, sorted([*before, inventory / ".vllmdctl.lock"]))


def test_hosts_and_images(ctl: Ctl, inventory: Path) -> None:
    assert json.loads(ctl("hosts", "list", "-o", "json").stdout) == [
        {"host": "localhost", "groups": ["builders", "hypervisors"], "address": "localhost", "connection": "local"}
    ]
    assert yaml.safe_load(ctl("hosts", "show", "localhost", "-o", "yaml").stdout)["memory"]["total_bytes"] > 0
    assert "NUMA nodes" in ctl("hosts", "show", "localhost").stdout
    done = ctl("images", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no images yet" in done.stderr
    assert ctl("images", "verify", "vllmd-cpu").returncode == USAGE


def test_a_refused_manifest_changes_nothing(ctl: Ctl, inventory: Path, tmp_path: Path) -> None:
    path = tmp_path / "runtime.yaml"
    path.write_text(RUNTIME.replace("cpu: 2", "cpuu: 2"))
    done = ctl("apply", str(path))
    assert done.returncode == REFUSED
    assert f"error: {path}:" in done.stderr
    assert "did you mean cpu?" in done.stderr
    assert list((inventory / "runtimes").iterdir()) == []


def test_an_inventory_that_forgets_manifests_is_said(ctl: Ctl, inventory: Path, tmp_path: Path) -> None:
    (inventory / "hosts.yml").write_text(HOSTS.replace("runtimes/*.yaml", "elsewhere/*.yaml"))
    path = tmp_path / "runtime.yaml"
    path.write_text(RUNTIME)
    done = ctl("apply", str(path))
    assert done.returncode == REFUSED
    assert "does not read" in done.stderr
    assert list((inventory / "runtimes").iterdir()) == []


def test_what_fits_nowhere_is_refused_before_anything_is_done(ctl: Ctl, inventory: Path, tmp_path: Path) -> None:
    path = tmp_path / "runtime.yaml"
    path.write_text(RUNTIME.replace("memory: 5Gi", "memory: 900Ti"))
    done = ctl("apply", str(path))
    assert done.returncode == FAILED
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error: {NAME} does not fit: asks for 2 CPUs, 943718400 MiB")
    assert "nearest: localhost lacks" in said
    assert list((inventory / "runtimes").iterdir()) == []
    assert not (inventory / "runtimes.plan.json").exists()


def test_deleting_asks_and_no_answer_is_no(ctl: Ctl, described: Path) -> None:
    done = ctl("runtimes", "delete", NAME)
    assert done.returncode == FAILED
    assert done.stderr.splitlines()[-1] == "error: nothing was deleted; answer y, or say --yes"
    assert (described / "runtimes" / f"{NAME}.yaml").exists()


def test_a_plan_with_a_runtime_that_no_manifest_names_is_no_obstacle(ctl: Ctl, described: Path) -> None:
    placement = {"id": "gone", "runtime": "gone", "replica": 0, "host": "localhost"}
    (described / "runtimes.plan.json").write_text(json.dumps({"schema_version": 1, "placements": [placement]}))
    done = ctl("runtimes", "list", "-o", "json")
    assert done.returncode == 0
    assert not {"gone", NAME} & {row["id"] for row in json.loads(done.stdout)}


def test_a_broken_inventory_is_one_line(ctl: Ctl, inventory: Path) -> None:
    (inventory / "hosts.yml").write_text("all: [")
    for command in (["hosts", "list"], ["runtimes", "list"]):
        done = ctl(*command)
        assert done.returncode in (FAILED, REFUSED)
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_initialize_makes_an_inventory_once(ctl: Ctl, home: Path) -> None:
    assert ctl("initialize", "environment", "--no-packages", "--check").returncode == 0
    assert not (home / "config").exists()
    assert ctl("initialize", "environment", "--no-packages").returncode == 0
    hosts = home / "config/vllmd/inventory/hosts.yml"
    hosts.write_text(hosts.read_text() + "# mine\n")
    assert "stays as it is" in ctl("initialize", "environment", "--no-packages").stderr
    assert hosts.read_text().endswith("# mine\n")
    assert ctl("hosts", "list").returncode == 0


def test_a_machines_accelerators_are_for_its_runtimes(tmp_path: Path) -> None:
    for name, vendor, kind in (("0000:01:00.0", "10de", "030200"), ("0000:01:00.1", "10de", "040300")):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"0x{vendor}\n")
        (device / "class").write_text(f"0x{kind}\n")
    devices = accelerators(tmp_path / "sys")
    assert devices == ["0000:01:00.0"]
    make_inventory(ROOT / "inventories/local", tmp_path / "with", devices)
    make_inventory(ROOT / "inventories/local", tmp_path / "without", accelerators(tmp_path / "no sys"))
    assert yaml.safe_load((tmp_path / "with/group_vars/all.yml").read_text())["vfio_devices"] == ["all"]
    assert "vfio_devices" not in yaml.safe_load((tmp_path / "without/group_vars/all.yml").read_text())


def test_logs_are_kept_and_private(ctl: Ctl, inventory: Path, home: Path) -> None:
    ctl("images", "list")
    (log,) = (home / "state/vllmd/logs").glob("*.log")
    assert "playbooks/images.yml" in log.read_text().splitlines()[0]
    events = [json.loads(line)["event"] for line in log.with_suffix(".jsonl").read_text().splitlines()]
    assert (events[0], events[-1]) == ("start", "stats")
    for path in (log, log.with_suffix(".jsonl")):
        assert path.stat().st_mode & 0o077 == 0


SLOW = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Take long
      ansible.builtin.command: {argv: [sleep, "120"]}
"""
RUN = """\
import sys
from pathlib import Path
from vllmdctl import ansible, places
from vllmdctl.ansible_play import Play
from vllmdctl.commands.initialize import accelerators, make_inventory
from vllmdctl.errors import CtlError
places.playbook = lambda name: Path(sys.argv[2])
try:
    ansible.run(Play(Path(sys.argv[1])), ["slow"], "apply").check()
except CtlError as error:
    print(error)
    sys.exit(error.status)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_everything_and_says_so(inventory: Path, home: Path, number: signal.Signals) -> None:
    playbook = home / "slow.yml"
    playbook.write_text(SLOW)
    command = [sys.executable, "-c", RUN, str(inventory), str(playbook)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    events = home / "state/vllmd/logs"
    deadline = time.monotonic() + 60
    while not any("Take long" in path.read_text() for path in events.glob("*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, _none = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "was interrupted; what is done stays done" in said
    left = subprocess.run(["pgrep", "-f", str(playbook)], check=False, capture_output=True, text=True).stdout
    assert left == ""


def test_scaling_wants_both_a_name_and_a_number_and_a_plan(ctl: Ctl, described: Path) -> None:
    done = ctl("runtimes", "scale", NAME)
    assert done.returncode == USAGE
    assert "expected a runtime and a number" in done.stderr
    done = ctl("runtimes", "scale", NAME, "2")
    assert done.returncode == FAILED
    assert f"there is no plan {described}/runtimes.plan.json, so nobody knows what runs where" in done.stderr
    # One that is described and has no replica can be scaled, too; its manifest decides how far.
    (described / "runtimes.plan.json").write_text(json.dumps({"schema_version": 1, "settings": {}, "placements": []}))
    done = ctl("runtimes", "scale", NAME, "5", "--check")
    assert done.returncode == FAILED
    assert f"replicas: {NAME} is 5; allowed: 1 to 1, by its spec.scaling" in done.stderr
    assert not (described / "runtimes.scale.json").exists()
