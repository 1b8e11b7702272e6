#!/usr/bin/env python3
"""The JSON Schema of a host, made from its dataclasses so that the two cannot differ.

PYTHONPATH=collection tests/support/host_schema.py   # writes plugins/module_utils/schemas/host-v1.schema.json
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import SCHEMA_VERSION, Host

PATH = Path(__file__).parents[2] / "plugins/module_utils/schemas/host-v1.schema.json"
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
_LINE = 112
_BDF = "^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]$"
#: What a type alone does not say.
_PATTERNS = {
    "bdf": _BDF,
    "vendor_id": "^[0-9a-f]{4}$",
    "device_id": "^[0-9a-f]{4}$",
    "subsystem_vendor_id": "^[0-9a-f]{4}$",
    "subsystem_device_id": "^[0-9a-f]{4}$",
}
_CHOICES = {
    "firmware": ["uefi", "bios"],
    "loader": ["grub", "systemd-boot", "none"],
    "layout": ["unified", "hybrid", "legacy"],
    "default_domain": ["passthrough", "translated", "mixed"],
}


def schema() -> dict[str, Any]:
    """Return the schema as plain data."""
    definitions: dict[str, Any] = {}
    body = _object(Host, definitions)
    body["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://vllmd.com/schemas/host-v1.schema.json",
        "title": "Host",
        **body,
        "$defs": dict(sorted(definitions.items())),
    }


def text() -> str:
    """Return the file's content: what fits on a line stands on one."""
    return _lines(schema(), "") + "\n"


def _lines(value: Any, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= _LINE or not isinstance(value, dict | list):
        return flat
    inner = indent + "  "
    if isinstance(value, list):
        words = textwrap.wrap(", ".join(map(json.dumps, value)), _LINE - len(inner))
        return "[\n" + "\n".join(inner + line for line in words) + f"\n{indent}]"
    rows = [f"{inner}{json.dumps(key)}: {_lines(each, inner)}" for key, each in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {each.name: _named(each.name, _type(hints[each.name], definitions)) for each in fields(kind)}
    return {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def _named(name: str, body: dict[str, Any]) -> dict[str, Any]:
    if name in _PATTERNS:
        return {**body, "pattern": _PATTERNS[name]}
    if name in _CHOICES:
        return {"enum": [*_CHOICES[name], None]}
    return body


def _type(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        inner = _type(next(each for each in arguments if each is not NoneType), definitions)
        return {"type": [inner["type"], "null"]} if "type" in inner else {"anyOf": [inner, {"type": "null"}]}
    if origin is dict:
        numbered = {"propertyNames": {"pattern": "^[0-9]+$"}} if arguments[0] is int else {}
        return {"type": "object", **numbered, "additionalProperties": _type(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _type(arguments[0], definitions)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_type(each, definitions) for each in arguments], "items": False}
    if is_dataclass(hint):
        assert isinstance(hint, type)
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": _SCALARS[hint]}


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
