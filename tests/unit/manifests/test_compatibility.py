"""docs/runtime.md, "Compatibility": what was accepted stays accepted and keeps its meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes

EXAMPLES = sorted(Path(__file__).with_name("v1alpha1").glob("*.yaml"))


def holds(expected: Any, found: Any) -> bool:
    """Return whether ``found`` says all that ``expected`` says; fields that came later may stand beside."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and holds(value, found[name]) for name, value in expected.items()
        )
    return bool(expected == found)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_accepted_manifest_keeps_its_meaning(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    found = load_runtimes(path.read_text(encoding="utf-8"), path.name)
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        assert holds(one, other), other


def test_there_is_an_example() -> None:
    assert [path.stem for path in EXAMPLES] == ["first", "kubernetes"]
