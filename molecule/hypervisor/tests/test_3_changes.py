"""Running the role again: only what changed is restarted, a dry run tells the truth, and there is a way back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from conftest import converge

testinfra_hosts = ["ansible://trixie"]
STATES = "Bring the runtimes into their states"
SERVED = {
    "name": "alpha",
    "network": "mode=user,forward=127.0.0.1:8000:8000",
    "health_url": "http://127.0.0.1:8000/health",
    "health_timeout": 120,
}
BOTH = {"spare": {"name": "beta", "state": "started"}}
OTHER = {**BOTH, "served": {**SERVED, "cpu_count": 2}}


def pid(host, name: str) -> int | None:
    """The virtual machine's process by the launcher's own account."""
    said = host.run(f"set -a; . /etc/vllmd/hypervisor/{name}.env; vllmd-hypervisor status --json").stdout
    return json.loads(said)["pid"]


def test_starting_one_touches_no_other(host) -> None:
    alpha = pid(host, "alpha")
    outcome = converge(host, BOTH)
    assert outcome.returncode == 0, outcome.output
    assert outcome.changed_items(STATES) == {"beta"}
    assert pid(host, "alpha") == alpha
    assert pid(host, "beta")


def test_a_dry_run_says_what_would_restart_and_does_nothing(host) -> None:
    before = pid(host, "alpha"), pid(host, "beta")
    outcome = converge(host, OTHER, "--check", "--diff")
    assert outcome.returncode == 0, outcome.output
    assert outcome.changed_items(STATES) == {"alpha"}
    assert '-VLLMD_HYPERVISOR_CPU_COUNT="1"\n+VLLMD_HYPERVISOR_CPU_COUNT="2"' in outcome.output
    assert (pid(host, "alpha"), pid(host, "beta")) == before


def test_a_changed_environment_restarts_only_that_runtime(host) -> None:
    alpha, beta = pid(host, "alpha"), pid(host, "beta")
    outcome = converge(host, OTHER)
    assert outcome.returncode == 0, outcome.output
    assert outcome.changed_items(STATES) == {"alpha"}
    assert pid(host, "alpha") not in (alpha, None)
    assert pid(host, "beta") == beta
    assert "cpus=2" in host.file("/var/log/vllmd/alpha.log").content_string


@pytest.mark.drill
def test_a_run_that_was_interrupted_before_its_restart_is_made_good(host) -> None:
    alpha, beta = pid(host, "alpha"), pid(host, "beta")
    host.check_output("echo '# other' >> /etc/vllmd/hypervisor/beta.env")  # written, and then the run was killed
    outcome = converge(host, OTHER)
    assert outcome.changed_items(STATES) == {"beta"}
    assert pid(host, "alpha") == alpha
    assert pid(host, "beta") not in (beta, None)
    assert converge(host, OTHER).changed == 0


@pytest.mark.drill
def test_a_guest_that_never_serves_fails_with_its_console(host) -> None:
    silent = {**SERVED, "cpu_count": 2, "health_url": "http://127.0.0.1:8000/nothing", "health_timeout": 60}
    outcome = converge(host, {**BOTH, "served": silent})
    assert outcome.returncode != 0
    assert "http://127.0.0.1:8000/nothing was not healthy within 60 s (it answered 404)" in outcome.output
    assert "tiny-guest: ready" in outcome.output
    assert converge(host, OTHER).returncode == 0


def test_a_wrong_entry_is_refused_before_anything_changes(host) -> None:
    alpha = pid(host, "alpha")
    for served, said in [
        ({"name": "alpha", "config_image": "/x"} | {"cpu_count": "four"}, "cpu_count"),
        ({**SERVED, "name": "no spaces"}, "runtime no spaces: its name must be"),
        ({**SERVED, "stat": "started"}, "stat"),
        ({**SERVED, "name": "beta"}, "hypervisor_runtimes lists a name twice"),
    ]:
        outcome = converge(host, {**BOTH, "served": served})
        assert outcome.returncode != 0
        assert said in outcome.output
        assert outcome.changed == 0
    assert pid(host, "alpha") == alpha


def test_one_runtime_can_go(host) -> None:
    alpha = pid(host, "alpha")
    gone = {"served": {**SERVED, "cpu_count": 2}, "spare": {"name": "beta", "state": "absent"}}
    assert converge(host, gone).returncode == 0
    assert not host.file("/etc/vllmd/hypervisor/beta.env").exists
    assert not host.file("/run/vllmd/beta").exists
    assert pid(host, "alpha") == alpha


def test_the_way_back_leaves_nothing(host) -> None:
    back = {"hypervisor_state": "absent", "hypervisor_remove_logs": True}
    outcome = converge(host, back)
    assert outcome.returncode == 0, outcome.output
    places = "/etc /usr/local /run /var/log /home/*/.config /home/*/.local"
    left = host.run(f"find {places} -xdev -name '*vllmd*' -not -name '*.tar' 2>/dev/null").stdout.split()
    assert left == []
    assert not host.user("vllmd").exists
    assert host.process.filter(comm="vllmd-hyperviso") == []
    assert converge(host, back).changed == 0
