"""A host that goes away in the middle of a run is one line; with the host back, running again makes it good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import nspawn_bed as bed
from conftest import RUN, inventory, named, play, until

pytestmark = pytest.mark.drill
GOES = "west"


def container(name: str) -> Path:
    """Where the bed keeps a host."""
    (found,) = (each for each in bed.STATE_ROOT.glob(f"runtimes-*-{name}") if (each / "host.json").exists())
    return found


def start_again(state: Path, command: list[str], environment: dict[str, str]) -> None:
    """Boot the same container on its own files, as its machine would after a power cut."""
    record = bed.read_record(state / "host.json")
    with (state / "console.log").open("ab") as console:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            preexec_fn=lambda: bed.enter_own_cgroup(state.name),  # noqa: PLW1509 -- single-threaded here
        )
    started = {"pid": process.pid, "start_ticks": bed.start_ticks(process.pid)}
    bed.write_record(state / "host.json", {**record, **started})
    bed.wait_for_ssh(lambda: process.poll() is None, record["address"], 120, state / "console.log")


def test_a_host_that_vanishes_is_one_line_and_running_again_converges() -> None:
    state = container(GOES)
    record = bed.read_record(state / "host.json")
    process = Path(f"/proc/{record['pid']}")
    command = process.joinpath("cmdline").read_text(encoding="utf-8").split("\0")[:-1]
    said_environment = process.joinpath("environ").read_text(encoding="utf-8").split("\0")
    environment = dict(each.split("=", 1) for each in said_environment if "=" in each)
    # What the run has to bring about again on both hosts: it is not done when the host goes.
    for replica in (named("amber"), named("amber.1")):
        replica.host.check_output(f"systemctl stop {replica.unit}")

    from conftest import command_of  # noqa: PLC0415 -- beside its one use

    # A dead host is noticed sooner than the bed's patience with emulated ones would.
    impatient = f"-o UserKnownHostsFile={RUN}/known_hosts -o ServerAliveInterval=3 -o ServerAliveCountMax=4"
    variables = {"ansible_ssh_common_args": f"{impatient} -o ConnectTimeout=10 -o IdentitiesOnly=yes"}
    arguments, settings = command_of("start.yml", variables=variables)
    log = RUN / "vanished.log"
    with log.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=settings)
        until(
            lambda: f"into their states [{GOES}]" in log.read_text(encoding="utf-8") or run.poll() is not None,
            "the run starts virtual machines",
        )
        # With all that runs on it: what its process leaves behind would serve on.
        bed.kill_group(state.name)
        code = run.wait(timeout=1800)
    text = log.read_text(encoding="utf-8")
    log.unlink()
    assert code != 0
    lines = [line for line in text.splitlines() if GOES in line and ("unreachable" in line.lower())]
    assert lines, text
    assert "Traceback" not in text
    # The other host was served to the end.
    assert named("amber").healthy()

    start_again(state, command, environment)
    assert inventory()[GOES]["ansible_host"] == record["address"]
    again = play("start.yml")
    assert again.returncode == 0, again.output
    assert named("amber.1").healthy()
    assert play("start.yml").changed == 0
