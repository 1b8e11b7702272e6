# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host as JSON and back: tuples become lists, numbers that are keys become text (``schemas/host-v1.schema.json``)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .model import SCHEMA_VERSION, Host

_T = TypeVar("_T")
_NAMES_OF: dict[type[Any], tuple[str, ...]] = {}
_HINTS_OF: dict[type[Any], dict[str, Any]] = {}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


class HostDataError(ValueError):
    """Data that is no host: one line that names the field, what was found and what is expected."""


def as_dict(value: Any) -> Any:
    """Return a host, or any part of one, as plain data for JSON."""
    if isinstance(value, str):
        # A name that is not UTF-8 comes from the file system with surrogates, which no JSON reader takes.
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int | float | NoneType):
        return value
    if isinstance(value, tuple | list):
        return [as_dict(each) for each in value]
    if isinstance(value, dict):
        return {as_dict(str(key)): as_dict(each) for key, each in value.items()}
    return {name: as_dict(getattr(value, name)) for name in _names(type(value))}


def from_dict(data: Any) -> Host:
    """Return the host that `as_dict` made ``data`` of.

    Fields that are missing have their defaults and fields that are not known are left out, so data of an older or newer
    collection can be read as long as its schema_version is the same. Raises HostDataError.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise HostDataError(
            f"host: schema_version is {version!r}, expected {SCHEMA_VERSION}; read the host again with this collection"
        )
    return _build(Host, data, "host")


def _names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _NAMES_OF:
        _NAMES_OF[kind] = tuple(field.name for field in fields(kind))
    return _NAMES_OF[kind]


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS_OF:
        hints = get_type_hints(kind)
        _HINTS_OF[kind] = {name: hints[name] for name in _names(kind)}
    return _HINTS_OF[kind]


def _build(kind: type[_T], data: Any, where: str) -> _T:
    if not isinstance(data, dict):
        raise _wrong(where, data, "a mapping")
    values = {name: _value(hint, data[name], f"{where}.{name}") for name, hint in _hints(kind).items() if name in data}
    try:
        return kind(**values)
    except TypeError:
        missing = [name for name in _hints(kind) if name not in values]
        raise HostDataError(f"{where}: misses one of {', '.join(missing)}") from None


def _value(hint: Any, data: Any, where: str) -> Any:
    """Return ``data`` as the type that ``hint`` says; only the types that the model uses are known."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return None if data is None else _value(next(each for each in arguments if each is not NoneType), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong(where, data, "a mapping")
        return {_key(arguments[0], key, where): _value(arguments[1], data[key], f"{where}.{key}") for key in data}
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise _wrong(where, data, "a list")
        hints = arguments[:1] * len(data) if arguments[-1] is Ellipsis else arguments
        if len(hints) != len(data):
            raise _wrong(where, data, f"a list of {len(hints)}")
        pairs = zip(hints, data, strict=True)
        return tuple(_value(each, item, f"{where}[{index}]") for index, (each, item) in enumerate(pairs))
    if isinstance(hint, type) and is_dataclass(hint):
        return _build(hint, data, where)
    return _scalar(hint, data, where)


def _scalar(hint: Any, data: Any, where: str) -> Any:
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    if hint is float and is_number:
        return float(data)
    if hint is int and is_number and isinstance(data, int):
        return data
    if hint in (str, bool) and isinstance(data, hint):
        return data
    raise _wrong(where, data, _WORDS.get(hint, str(hint)))


def _key(hint: Any, key: Any, where: str) -> Any:
    if hint is not int:
        return str(key)
    try:
        return int(key)
    except ValueError:
        raise _wrong(where, key, "a whole number as the key") from None


def _wrong(where: str, data: Any, expected: str) -> HostDataError:
    return HostDataError(f"{where}: found {str(data)[:40]!r}, expected {expected}; is this the data of host_facts?")
