"""Long commands with their progress in a log: run once, ended with the task, one line when they fail."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import modules


def arguments(root: Path, script: str) -> dict[str, Any]:
    return {"argv": ["sh", "-c", script], "creates": str(root / "product"), "log_path": str(root / "log/step.log")}


def test_a_product_is_made_once(tmp_path: Path) -> None:
    given = arguments(tmp_path, f"echo working >&2; touch {tmp_path}/product; echo answer")
    assert modules.run("logged_command", given, tmp_path, check=True)["changed"]
    assert not (tmp_path / "product").exists()
    result = modules.run("logged_command", given, tmp_path)
    assert (result["changed"], result["stdout"]) == (True, "answer")
    assert (tmp_path / "log/step.log").read_text() == "working\n"
    again = modules.run("logged_command", given, tmp_path)
    assert (again["changed"], again["stdout"]) == (False, "")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo one >&2; echo two >&2; exit 3", "two (log: {log})"),
        ("exit 3", "sh ended with status 3 (log: {log})"),
        ("true", "sh ended well but did not make {root}/product (log: {log})"),
    ],
)
def test_a_failure_is_its_last_line(tmp_path: Path, script: str, sentence: str) -> None:
    result = modules.run("logged_command", arguments(tmp_path, script), tmp_path)
    assert result["failed"]
    assert result["msg"] == sentence.format(log=tmp_path / "log/step.log", root=tmp_path)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    given = {**arguments(tmp_path, ""), "argv": ["/nowhere/x"]}
    result = modules.run("logged_command", given, tmp_path)
    assert result["msg"].startswith("setpriv: failed to execute /nowhere/x: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_ends_with_the_task(tmp_path: Path, number: signal.Signals) -> None:
    given = arguments(
        tmp_path, f"trap 'kill $!; touch {tmp_path}/ended; exit 1' TERM; touch {tmp_path}/started; sleep 60 & wait"
    )
    command, environment = modules.command("logged_command", given, tmp_path)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    process.send_signal(number)
    output, _nothing = process.communicate(timeout=10)
    if number == signal.SIGTERM:
        assert json.loads(output)["msg"].startswith("interrupted by SIGTERM; run it again")
    deadline = time.monotonic() + 5
    while not (tmp_path / "ended").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "ended").exists()
