"""What is typed: help, suggestions, exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from vllmdctl.app import app
from vllmdctl.errors import USAGE
from vllmdctl.main import main

from .conftest import ROOT, Ctl

DOCUMENTATION = (ROOT / "docs/vllmdctl.md").read_text()


def commands() -> list[tuple[str, ...]]:
    """Every command there is, as it is typed."""
    found: list[tuple[str, ...]] = []

    def walk(node: object, path: tuple[str, ...]) -> None:
        children = getattr(node, "commands", None)
        if children is None:
            found.append(path)
        for name, child in (children or {}).items():
            walk(child, (*path, name))

    walk(get_command(app), ())
    return sorted(found)


def test_the_promised_commands_are_there() -> None:
    promised = """
        initialize environment, apply, infer, runtimes precheck, runtimes generate, runtimes start, runtimes list,
        runtimes status, runtimes stop, runtimes restart, runtimes update, runtimes logs, runtimes console,
        runtimes delete, images list,
        images verify, images gc, hosts list, hosts show, doctor,
        nodes list, nodes join, nodes leave, nodes approve
    """
    assert {tuple(each.split()) for each in promised.split(",")} <= set(commands())


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_each_command_has_help_and_is_documented(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: vllmdctl" in shown
    assert f"vllmdctl {' '.join(command)}" in DOCUMENTATION
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) - {"--help"}:
        assert f"`{option}" in DOCUMENTATION, f"{option} of {' '.join(command)}"


def test_help_loads_neither_ansible_nor_the_client(capsys: pytest.CaptureFixture[str], ctl: Ctl) -> None:
    code = (
        "import sys; from vllmdctl.main import main; main(['--help']);"
        "print([n for n in ('ansible', 'openai', 'pydantic', 'rich', 'yaml', 'jsonschema') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aply"], "No such command 'aply'"),
        (["runtimes", "strat"], "start"),
        (["runtimes", "logs"], "RUNTIME_ID"),
        (["runtimes", "list", "--output", "xml"], "xml"),
        (["runtimes", "list", "-i", "/nowhere"], "there is no inventory /nowhere"),
        (["runtimes", "list"], "vllmdctl initialize environment"),
        (["apply", "-i", "/nowhere", "a.yaml"], "/nowhere"),
        (["infer", "x", "--max-tokens", "0"], "--max-tokens"),
        (["infer", "x", "--chat", "--output", "json"], "conversation"),
        (["infer", "-", "-"], "once"),
        (["infer"], "the question is empty"),
    ],
)
def test_a_wrong_command_line_is_one_line(ctl: Ctl, arguments: list[str], said: str) -> None:
    done = ctl(*arguments)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [*{word for command in commands() for word in command}, "--output", "json", "-v", "--limit", "--", "-x"]
            ),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        ),
        max_size=5,
    )
)
def test_no_command_line_ends_in_a_traceback(words: list[str]) -> None:
    # Nothing may be run: the inventory does not exist, and the commands that need none have theirs elsewhere.
    if words[:1] in (["doctor"], ["initialize"]) or any(word.startswith("--install") for word in words):
        return
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("VLLMD_INVENTORY", "/nowhere/at/all")
        patch.setenv("VLLMD_URL", "no url")
        patch.setattr("sys.stdin", Path("/dev/null").open(encoding="utf-8"))  # noqa: SIM115  # ends with the process
        assert main(words) in (0, USAGE)
