"""The reference page names exactly the fields that the schema has, and its examples are valid manifests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtime

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/runtime.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "plugins/module_utils/schemas/runtime-v1alpha1.schema.json").read_text(encoding="utf-8"))
EXAMPLES = re.findall(r"^```yaml\n(apiVersion.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the paths of all fields at or below ``path`` that hold a value."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    items = SCHEMA["$defs"].get(schema.get("items", {}).get("$ref", "").rpartition("/")[2], {})
    if "properties" in items:
        yield path
        yield from fields(items, f"{path}[]")
        return
    below: dict[str, Any] = dict(schema.get("properties", {}))
    for variant in schema.get("allOf", []):
        below |= {name: each for name, each in variant["then"]["properties"].items() if each is not True}
    if not below and path:
        yield path
    for name, each in below.items():
        yield from fields(each, f"{path}.{name}" if path else name)


def test_the_page_names_every_field_once() -> None:
    named = re.findall(r"^\| `([a-z]+\.[^`]*)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(set(fields(SCHEMA, "")) - {"apiVersion", "kind"})


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_valid(text: str) -> None:
    assert load_runtime(text, "example")["kind"] == "Runtime"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2
