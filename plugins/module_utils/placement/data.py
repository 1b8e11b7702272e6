# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read plain data with one line for what is wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DataError(ValueError):
    """Data that is not what it should be: one line that names the field, what was found and what is expected."""


def mapping(data: Any, where: str) -> Mapping[str, Any]:
    """Return ``data``, a mapping. Raises DataError."""
    if not isinstance(data, Mapping):
        raise DataError(f"{where}: found {str(data)[:40]!r}, expected a mapping")
    return data


def integer(data: Mapping[str, Any], name: str, where: str) -> int:
    """Return a whole number that is not negative. Raises DataError."""
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected a whole number, 0 or more")
    return value


def text(data: Mapping[str, Any], name: str, where: str) -> str:
    """Return a text that is not empty. Raises DataError."""
    value = data.get(name) if isinstance(data, Mapping) else None
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected text")
    return value


def optional(data: Mapping[str, Any], name: str, where: str) -> str | None:
    """Return a text, or None where there is none. Raises DataError."""
    return None if data.get(name) is None else text(data, name, where)


def items(data: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    """Return a list of mappings. Raises DataError."""
    value = data.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(each, Mapping) for each in value):
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected a list of mappings")
    return list(value)


def texts(data: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return a list of texts. Raises DataError."""
    value = data.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected a list of texts")
    return tuple(value)


def whole_numbers(value: Any, where: str) -> tuple[int, ...]:
    """Return a list of whole numbers, none negative. Raises DataError."""
    # By types (Ansible has its own kinds of int) and minimum: a fleet has hundreds of thousands of CPU numbers.
    kinds = set(map(type, value)) if isinstance(value, list | tuple) else {str}
    if not all(issubclass(kind, int) and kind is not bool for kind in kinds) or (value and min(value) < 0):
        raise DataError(f"{where}: found {str(value)[:40]!r}, expected a list of whole numbers")
    return tuple(value)
