"""What every scenario's tests share: the journal beside a failure, waiting, running the playbook again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

JOURNAL_LINES = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put the journal of our units on the failing test's host beside its failure."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        command = f"journalctl --no-pager --lines={JOURNAL_LINES} --output=short-precise --unit='vllm*'"
        journal = host.run(command)
        consoles = host.run("tail --lines=20 /var/log/vllmd/*.log")
        report.sections.append((f"journal of {host.backend.hostname}", journal.stdout + journal.stderr))
        report.sections.append((f"consoles of {host.backend.hostname}", consoles.stdout))
    return report


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """Return the first true value of `condition`; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.3)
    return value


@dataclass(frozen=True)
class Outcome:
    """What a playbook run said."""

    returncode: int
    output: str

    @property
    def changed(self) -> int:
        """Number of changed tasks over all hosts."""
        return sum(int(number) for number in re.findall(r"\bok=\d+ +changed=(\d+)", self.output))

    def changed_items(self, task: str) -> set[str]:
        """Labels of the loop items that a task reported changed."""
        _, _, after = self.output.partition(f": {task}] *")
        of_task = after.partition("\nTASK [")[0]
        return set(re.findall(r"^changed: .*\(item=(.*)\)", of_task, re.MULTILINE))


def converge(host: Any, variables: dict[str, Any], *arguments: str, timeout: float = 1800) -> Outcome:
    """Run the scenario's converge playbook against one host, with variables that win over the playbook's own."""
    command = [
        "ansible-playbook",
        f"--inventory={os.environ['MOLECULE_INVENTORY_FILE']}",
        f"--limit={host.backend.hostname}",
        f"--extra-vars={json.dumps(variables)}",
        *arguments,
        str(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"),
    ]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    environment.pop("ANSIBLE_STDOUT_CALLBACK", None)
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=timeout)
    return Outcome(result.returncode, result.stdout + result.stderr)


@pytest.fixture(scope="module")
def converge_again(host: Any) -> Callable[..., Outcome]:
    """`converge` for the module's host, for a scenario whose tests have a conftest.py of their own."""
    return partial(converge, host)
