"""Hypothesis strategies from the collection's own JSON Schemas: values that a schema accepts, or nearly."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

#: Strings for what the schema says by format or by a rule outside of it.
FORMATS = {
    "bytes": ["1Gi", "512M", "1e9", "0.5Gi", 1048576, "200Mi", "64Ki"],
    "cpus": ["4", "500m", 2, 0.5, "1e3", "0"],
    "ipv4": ["192.0.2.1", "127.0.0.1"],
    "ipv4-interface": ["192.0.2.10/24"],
    "ipv4-network": ["192.0.2.0/24", "0.0.0.0/0", "192.0.2.7"],
}


def values(root: dict[str, Any], schema: Any) -> st.SearchStrategy[Any]:
    """Return values that ``schema``, a part of ``root``, accepts; its ``if`` without ``allOf`` is not looked at."""
    if not isinstance(schema, dict):
        return st.just("x")
    if "$ref" in schema:
        return values(root, root["$defs"][schema["$ref"].rpartition("/")[2]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if "format" in schema:
        return st.sampled_from(FORMATS[schema["format"]])
    if "allOf" in schema:
        return st.one_of(_variant(root, schema, each) for each in schema["allOf"])
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        return st.one_of(_plain(root, schema, each) for each in kind)
    return _plain(root, schema, kind)


def _variant(root: dict[str, Any], schema: dict[str, Any], variant: dict[str, Any]) -> st.SearchStrategy[Any]:
    conditions = variant["if"]["properties"]
    properties = {**schema["properties"], **variant["then"]["properties"], **conditions}
    return values(root, {**variant["then"], "type": "object", "properties": properties, "required": list(conditions)})


def _plain(root: dict[str, Any], schema: dict[str, Any], kind: str) -> st.SearchStrategy[Any]:
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**64)), schema.get("maximum", 2**64))
    if kind == "number":
        return st.integers() | st.floats()
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        least, most = schema.get("minItems", 0), min(3, schema.get("maxItems", 3))
        unique = repr if schema.get("uniqueItems") else None
        return st.lists(values(root, schema.get("items")), min_size=least, max_size=most, unique_by=unique)
    if kind == "object":
        return _mapping(root, schema)
    if "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True)
    return st.text(max_size=schema.get("maxLength", 20))


def _mapping(root: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        names = values(root, {"type": "string", **schema.get("propertyNames", {})})
        return st.dictionaries(names, values(root, schema.get("additionalProperties")), max_size=3)
    every = {name: values(root, each) for name, each in schema["properties"].items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: every[name] for name in sorted(required)},
        optional={name: each for name, each in every.items() if name not in required},
    )
