# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The Runtime manifest's JSON Schema, and its errors as sentences that name field, found and allowed."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

try:
    import jsonschema
    from jsonschema.validators import extend
except ImportError:  # schema_problems() says so
    jsonschema = None  # type: ignore[assignment]

from . import quantities
from .yaml_marks import Document, Path, dotted

SCHEMA_PATH = FilePath(__file__).parent / "schemas" / "runtime-v1alpha1.schema.json"


#: Sentences for what people write that no rule of the schema can explain: by field, by field and value.
_FIELD_SENTENCES = {
    "spec.kubernetes.token": (
        "not allowed: a manifest is no place for a secret; set vllmd_kubernetes_tokens in the inventory"
    ),
}
_VALUE_SENTENCES = {
    ("spec.target", "kubernetes"): (
        "did you mean spec.placement.target? To make its virtual machine a node set spec.kubernetes"
    ),
}
#: What may hold a secret is not repeated in a message.
_HIDDEN = ("spec.engine_environment",)
_SHORTEST_PREFIX = 3


@dataclass(frozen=True, order=True)
class Problem:
    """One wrong field: where it stands (line and column from 1) and one line that says what is wrong."""

    line: int
    column: int
    message: str


def schema_problems(document: Document) -> Iterator[Problem]:
    """Yield one problem per field that the schema refuses."""
    if jsonschema is None:
        message = "cannot be validated: the Python package jsonschema is missing; install jsonschema"
        yield Problem(1, 1, message)
        return
    by_field: dict[Path, Any] = {}
    for error in _validator().iter_errors(document.data):
        path = tuple(error.absolute_path)
        if "propertyNames" in error.absolute_schema_path:
            yield problem(document, (*path, error.instance), f"not a possible name; allowed: {_allowed(error)}")
        elif error.validator in ("additionalProperties", "required", "dependentRequired"):
            yield from _object_problems(document, path, error)
        elif path not in by_field or error.validator == "type":
            by_field[path] = error
    for path, error in by_field.items():
        if isinstance(error.cause, quantities.QuantityError):
            yield problem(document, path, f"found {error.cause}")
            continue
        hint = _VALUE_SENTENCES.get((dotted(path), str(error.instance)[:80]))
        if not hint and error.validator in ("const", "enum"):
            known = [error.schema["const"]] if error.validator == "const" else error.schema["enum"]
            near = nearest(str(error.instance), known) if isinstance(error.instance, str) else None
            hint = f"did you mean {near}?" if near else None
        end = f" ({hint})" if hint else ""
        yield problem(document, path, f"found {_found(document, path)}; allowed: {_allowed(error)}{end}")


def _object_problems(document: Document, path: Path, error: Any) -> Iterator[Problem]:
    """Say which fields of the mapping at ``path`` are unknown or missing."""
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in known:
                field = dotted((*path, key))
                message = _FIELD_SENTENCES.get(field)
                if message is None:
                    near = nearest(key, known) or _elsewhere(field, key)
                    hint = f" (did you mean {near}?)" if near else ""
                    message = f"unknown field; allowed: {', '.join(known)}{hint}"
                yield problem(document, (*path, key), message)
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield problem(document, (*path, key), f"missing; allowed: {_describe_property(error.schema, key)}")
    else:
        for key, needed in error.validator_value.items():
            for other in needed:
                if key in error.instance and other not in error.instance:
                    yield problem(document, (*path, key), f"needs {other} beside it; add {other} or remove {key}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``word`` is most likely meant to be, or None."""
    plain = {_plain(each): each for each in known}
    wanted = _plain(word[:80])
    begins = [each for each in plain if each.startswith(wanted)] if len(wanted) >= _SHORTEST_PREFIX else []
    if len(begins) == 1:
        return plain[begins[0]]
    near = difflib.get_close_matches(wanted, plain, n=1)
    return plain[near[0]] if near else None


def _plain(word: str) -> str:
    return word.replace("_", "").replace("-", "").casefold()


def _elsewhere(field: str, key: str) -> str | None:
    """Return the only field of the schema with the name ``key``, wherever it is; None when there are several."""
    found = [each for each in known_fields() if _plain(each.rpartition(".")[2]) == _plain(key[:80]) and each != field]
    return found[0] if len(found) == 1 else None


def known_fields() -> list[str]:
    """Return the dotted path of every field of a Runtime; ``[]`` stands for any place in a list."""
    if "fields" not in _CACHE:
        _CACHE["fields"] = sorted(set(_fields(_schema(), "")))
    fields: list[str] = _CACHE["fields"]
    return fields


def _fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(schema.get("items"), dict):
        yield from _fields(schema["items"], f"{path}[]")
    variants = [variant["then"] for variant in schema.get("allOf", [])]
    for each in [schema, *variants]:
        for name, below in each.get("properties", {}).items():
            field = f"{path}.{name}" if path else name
            yield field
            yield from _fields(below if isinstance(below, dict) else {}, field)


def problem(document: Document, path: Path, message: str) -> Problem:
    """Return ``message`` about the field at ``path``, with the field's place."""
    mark = document.mark(path)
    return Problem(mark.line, mark.column, f"field {dotted(path)}: {message}")


def _found(document: Document, path: Path) -> str:
    """Return the field's value as the author wrote it, shortened to one line."""
    source = document.sources.get(path)
    if source and dotted(path).startswith(_HIDDEN):
        return "a value that is not shown"
    if source is None:
        return "a mapping" if isinstance(_value_at(document.data, path), dict) else "a list"
    if source == "" and _value_at(document.data, path) is None:
        return "nothing"
    text = json.dumps(source) if not source.isprintable() else repr(source)
    return text if len(text) <= 80 else text[:77] + "..."


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _allowed(error: Any) -> str:
    schema = error.schema
    if error.validator == "const":
        return str(schema["const"])
    if error.validator == "enum":
        return ", ".join(str(value) for value in schema["enum"])
    if error.validator == "anyOf":
        return str(schema["description"])
    if error.validator == "uniqueItems":
        return "each entry once"
    return _describe(schema)


def _describe(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "another value"
    if "$ref" in schema:
        schema = _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    if "description" in schema and schema.get("type") != "object":
        return str(schema["description"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "properties" in schema:
        return f"a mapping with {', '.join(schema['properties'])}"
    return str(schema.get("description") or f"a value of type {schema.get('type', 'any')}")


def _describe_property(schema: dict[str, Any], key: str) -> str:
    return _describe(schema.get("properties", {}).get(key, {}))


_CACHE: dict[str, Any] = {}


def _schema() -> dict[str, Any]:
    if "schema" not in _CACHE:
        _CACHE["schema"] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    schema: dict[str, Any] = _CACHE["schema"]
    return schema


def _validator() -> Any:
    """Return the schema's validator, with Python's looser readings made exact."""
    if "validator" not in _CACHE:
        base = jsonschema.Draft202012Validator
        integers = base.TYPE_CHECKER.redefine(
            "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
        )
        exact = extend(base, {"pattern": _pattern}, type_checker=integers)  # type: ignore[no-untyped-call]
        formats = jsonschema.FormatChecker(formats=())
        formats.checks("ipv4", raises=ValueError)(_is_ipv4)
        formats.checks("ipv4-interface", raises=ValueError)(_is_ipv4_interface)
        formats.checks("ipv4-network", raises=ValueError)(_is_ipv4_network)
        formats.checks("bytes", raises=ValueError)(lambda value: _is_quantity(quantities.parse_bytes, value))
        formats.checks("cpus", raises=ValueError)(lambda value: _is_quantity(quantities.parse_millis, value))
        _CACHE["validator"] = exact(_schema(), format_checker=formats)
    return _CACHE["validator"]


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    # JSON Schema's "$" is the end of the text; Python's also matches before a final newline.
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _is_ipv4(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.IPv4Address(value))


def _is_ipv4_interface(value: object) -> bool:
    return not isinstance(value, str) or ("/" in value and bool(ipaddress.IPv4Interface(value)))


def _is_ipv4_network(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.IPv4Network(value))


def _is_quantity(parse: Callable[[Any], int], value: object) -> bool:
    known = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return not known or parse(value) >= 0  # QuantityError says why not
