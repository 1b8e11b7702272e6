"""What the tests of runtimes share: which replica is where, how to reach it from outside, how to make it fail.

This machine is the controller and a client: it reaches the replicas at their hosts' own addresses, by
``spec.network.forward``. How long each recovery took ends up in ``runtimes-recovery.json`` of the run's directory, and
under the tests' summary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

SCENARIO = Path(__file__).parents[1]
PROJECT = SCENARIO.parents[1]
RUN = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
STORE = RUN / "images/molecule-runtimes"
RESULTS = RUN / "runtimes-recovery.json"
FLEET = RUN / "fleet"  # the plan, and what lies beside it
# Without hardware virtualization and with all guests on two CPUs; nothing is asserted of time below it.
PATIENCE_SECONDS = 1200
sys.path[:0] = [str(PROJECT), str(SCENARIO.parent / "shared/module_utils")]


def inventory() -> dict[str, Any]:
    """Variables of the hosts as molecule wrote them."""
    file = Path(os.environ["MOLECULE_INVENTORY_FILE"])
    path = file / "ansible_inventory.yml" if file.is_dir() else file
    return yaml.safe_load(path.read_text(encoding="utf-8"))["hypervisors"]["hosts"]


def host_named(name: str) -> Host:
    """Return a hypervisor."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={os.environ['MOLECULE_INVENTORY_FILE']}")


@dataclass(frozen=True)
class Replica:
    """One replica, as the plan placed it."""

    placement: dict[str, Any]
    host_address: str
    api_port: int
    ssh_port: int

    @property
    def name(self) -> str:
        """Its name, and its unit's."""
        return str(self.placement["id"])

    @property
    def unit(self) -> str:
        """Its unit on the host."""
        return f"vllmd-hypervisor@{self.name}.service"

    @property
    def url(self) -> str:
        """Where clients reach its API."""
        return f"http://{self.host_address}:{self.api_port}"

    @cached_property
    def host(self) -> Host:
        """Its hypervisor."""
        return host_named(self.placement["host"])

    @cached_property
    def address(self) -> str:
        """Its guest's own address."""
        return str(json.loads(self.host.file("/etc/vllmd/network/addresses.json").content_string)[self.name])

    @cached_property
    def mac(self) -> str:
        """Its guest's own MAC address."""
        environment = self.host.file(f"/etc/vllmd/hypervisor/{self.name}.env").content_string
        return environment.partition(",mac=")[2][:17]

    def shown(self, name: str) -> str:
        """One property of its unit."""
        return self.host.check_output(f"systemctl show --value --property={name} {self.unit}")

    def pid(self) -> str:
        """Its virtual machine monitor."""
        return self.shown("MainPID")

    def journal(self, since: str = "") -> str:
        """What the launcher and systemd said of its unit."""
        period = f"--since='{since}'" if since else ""
        return self.host.check_output(f"journalctl --no-pager --output=cat --unit={self.unit} {period}")

    def healthy(self) -> bool:
        """Whether it answers /health, asked from outside."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 -- our own URL
                return answer.status == 200
        except OSError:
            return False

    def ask(self, prompt: str = "who?", timeout: float = 30) -> str:
        """The text it completes a prompt with, asked from outside."""
        return str(self.post("/v1/completions", {"model": "stub", "prompt": prompt}, timeout)["choices"][0]["text"])

    def post(self, path: str, body: dict[str, Any] | None = None, timeout: float = 30) -> dict[str, Any]:
        """Send a JSON request."""
        content = json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return json.load(answer)

    def begin(self, command: str, text: str) -> subprocess.Popen[str]:
        """Start a command in the guest, by the operator's key, with ``text`` as its input."""
        # The guest makes its host key at each boot, so there is none to compare with.
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60"]
        arguments = [part for option in options for part in ("-o", option)]
        place = ["-i", str(RUN / "identity"), "-p", str(self.ssh_port), f"root@{self.host_address}"]
        ssh = subprocess.Popen(
            ["ssh", *arguments, *place, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert ssh.stdin is not None
        ssh.stdin.write(text)
        ssh.stdin.close()
        ssh.stdin = None
        return ssh

    def inside(self, command: str, text: str = "") -> str:
        """Run a command in the guest; what it prints."""
        ssh = self.begin(command, text)
        said, error = ssh.communicate(timeout=180)
        assert ssh.returncode == 0, f"{self.name}: {command}: {said}{error}"
        return said


def replicas() -> dict[str, Replica]:
    """Every replica of the plan, by name."""
    plan = json.loads((FLEET / "runtimes.plan.json").read_text(encoding="utf-8"))
    manifests = {
        each["metadata"]["name"]: {
            way.get("guest_port", 8000): way["host_port"] for way in each["spec"]["network"]["forward"]
        }
        for each in yaml.safe_load_all((SCENARIO / "files/runtimes.yaml").read_text(encoding="utf-8"))
    }
    hosts = inventory()
    return {
        each["id"]: Replica(
            each,
            hosts[each["host"]]["ansible_host"],
            manifests[each["runtime"]][8000],
            manifests[each["runtime"]][22],
        )
        for each in plan["placements"]
    }


def named(name: str) -> Replica:
    """One replica."""
    return replicas()[name]


@dataclass(frozen=True)
class Played:
    """What playbooks said."""

    returncode: int
    output: str

    @property
    def changed(self) -> int:
        """Number of changed tasks over all hosts."""
        recap = (line for line in self.output.splitlines() if " ok=" in line and " changed=" in line)
        return sum(int(line.partition(" changed=")[2].split()[0]) for line in recap)


def command_of(*playbooks: str, variables: dict[str, Any] | None = None) -> tuple[list[str], dict[str, str]]:
    """The command line of the collection's playbooks on these hosts, and its environment."""
    command = [
        "ansible-playbook",
        f"--inventory={os.environ['MOLECULE_INVENTORY_FILE']}",
        f"--extra-vars=@{SCENARIO / 'vars/main.yml'}",
        f"--extra-vars={json.dumps(variables or {})}",
        *(str(PROJECT / "playbooks" / name) for name in playbooks),
    ]
    # As an operator runs them: with the collection's own settings and output.
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    environment.pop("ANSIBLE_STDOUT_CALLBACK", None)
    environment.pop("ANSIBLE_FORCE_COLOR", None)
    return command, environment


def play(*playbooks: str, **variables: Any) -> Played:
    """Run playbooks of the collection on the scenario's hosts."""
    command, environment = command_of(*playbooks, variables=variables)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1800)
    return Played(done.returncode, done.stdout + done.stderr)


def publish(release: str) -> str:
    """Make a release the hosts' latest image; its version."""
    version = str(json.loads((STORE.parent / "releases.json").read_text(encoding="utf-8"))[release])
    new = STORE / ".latest.new"
    new.symlink_to(version)
    new.rename(STORE / "latest")
    return version


def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE_SECONDS) -> Any:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.5)
    return value


def record(what: str, replica: str, seconds: float) -> None:
    """Write down how long a recovery took."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = [each for each in known if each["what"] != what]
    known.append({"what": what, "replica": replica, "seconds_to_healthy": round(seconds, 1)})
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Recovery:
    """Seconds from a fault to the next healthy answer, how often systemd started the unit, and its journal."""

    seconds: float
    restarts: int
    journal: str


def recover(chains: dict[str, list[tuple[str, Callable[[Replica], object]]]]) -> dict[str, Recovery]:
    """Do to each replica its faults, one after the other; what came of each. Replicas have theirs at the same time.

    A replica counts as healthy again after it was seen not to be.
    """
    found: dict[str, Recovery] = {}

    def one(replica: Replica, faults: list[tuple[str, Callable[[Replica], object]]]) -> None:
        for what, act in faults:
            before = int(replica.shown("NRestarts"))
            since = replica.host.check_output("date '+%Y-%m-%d %H:%M:%S'")
            act(replica)
            began = time.monotonic()
            deadline = began + PATIENCE_SECONDS
            while replica.healthy():
                assert time.monotonic() < deadline, f"{what} does {replica.name} no harm"
                time.sleep(0.2)
            while not replica.healthy():
                assert time.monotonic() < deadline, f"{replica.name} does not recover from: {what}"
                time.sleep(0.5)
            seconds = time.monotonic() - began
            until(lambda: replica.shown("ActiveState") == "active", f"systemd knows that {replica.name} is well", 60)
            found[what] = Recovery(seconds, int(replica.shown("NRestarts")) - before, replica.journal(since))

    with ThreadPoolExecutor(len(chains)) as threads:
        running = [threads.submit(one, named(name), faults) for name, faults in chains.items()]
        failed = [str(each.exception()) for each in running if each.exception() is not None]
    for name, faults in chains.items():
        for what, _act in faults:
            if what in found:
                record(what, name, found[what].seconds)
    assert not failed, "; ".join(failed)
    return found


class Clients:
    """Clients of one service behind several URLs that ask without a pause until told to end."""

    def __init__(self, urls: list[str], count: int = 2) -> None:
        from vllmd.client import Client  # noqa: PLC0415 -- the client is what is looked at, not needed by all tests

        self.answers: list[str] = []
        self.failures: list[str] = []
        self._end = threading.Event()
        self._client = Client(urls, model="stub", timeout=60)
        self._threads = [threading.Thread(target=self._ask) for _each in range(count)]

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                self.answers.append(self._client.complete("who?", max_tokens=4))
            except Exception as error:
                self.failures.append(str(error))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._client.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Put what both hosts' units said last beside a failure."""
    report = yield
    if report.when == "call" and report.failed:
        for name in inventory():
            said = host_named(name).run(
                "journalctl --no-pager --lines=40 --output=short-precise --unit='vllm*'; "
                "tail --lines=15 /var/log/vllmd/*.log"
            )
            report.sections.append((f"journal and consoles of {name}", said.stdout + said.stderr))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how long recoveries took."""
    if RESULTS.exists():
        terminalreporter.section(f"seconds to healthy ({RESULTS})")
        for each in json.loads(RESULTS.read_text(encoding="utf-8")):
            terminalreporter.write_line(f"{each['seconds_to_healthy']:7.1f}  {each['what']} ({each['replica']})")
