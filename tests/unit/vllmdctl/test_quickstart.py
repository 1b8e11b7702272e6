"""The transcript of the quick start holds the commands that its script types, and those are the promised ones."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from .conftest import ROOT

PROMISED = """\
vllmdctl initialize environment
vllmdctl apply runtime.yaml
vllmdctl infer "Explain why PI is so awesome."
vllmdctl runtimes precheck
vllmdctl runtimes configure --cpu split --memory split --accelerators split
vllmdctl runtimes generate
""".splitlines()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "tests/system/quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_the_transcript_has_the_scripts_commands(script: ModuleType) -> None:
    assert script.compare((ROOT / "docs/quickstart.md").read_text()) == []


def test_the_promised_commands_are_typed_in_their_order(script: ModuleType) -> None:
    typed = [step.command for step in script.STEPS]
    assert [each for each in typed if each in PROMISED and typed.index(each)] == [
        *PROMISED[:2],
        *PROMISED[1:],
        PROMISED[1],
    ]
    assert f"vllmdctl runtimes start {script.NAME}" in typed


def test_a_difference_is_found(script: ModuleType) -> None:
    document = "\n".join(script.render(step, "said this", 1.0) for step in script.STEPS)
    assert script.compare(document) == []
    assert script.compare(document.replace("vllmdctl plan\n", "vllmdctl plann\n")) == [
        "not in the transcript: vllmdctl plan",
        "in the transcript only: vllmdctl plann",
    ]
    assert script.compare(document + script.render(script.STEPS[0], "", 1.0)) == ["the order of the commands differs"]
