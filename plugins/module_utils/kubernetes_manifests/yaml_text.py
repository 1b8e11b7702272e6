# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Objects as YAML that every reader understands alike, whichever version of YAML it speaks.

``1e3`` and ``0o17`` are text for readers of YAML 1.1 and numbers for those of 1.2, ``yes`` and ``1:30`` the other way
round; so text stands in quotes unless it is plainly a word. Quoted text is JSON's, which is YAML's, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: One word or path: it begins with a letter or a slash, and no character in it means anything.
_WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*")
_MEANING = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
_INDENT = 2


def dump(objects: Iterable[Mapping[str, Any]], header: str) -> str:
    """Return the objects as YAML documents below ``header``, a comment; the same objects give the same text.

    They hold mappings with text as keys, lists, text, whole numbers, true, false and None, in the order given.
    """
    return header + "".join(f"---\n{chr(10).join(_lines(each, 0))}\n" for each in objects)


def _lines(value: Any, indent: int) -> Iterator[str]:
    """Yield the lines of a mapping or a list that is not empty."""
    pad = " " * indent
    if isinstance(value, Mapping):
        for key, below in value.items():
            if _is_block(below):
                yield f"{pad}{_scalar(str(key))}:"
                yield from _lines(below, indent + _INDENT)
            else:
                yield f"{pad}{_scalar(str(key))}: {_scalar(below)}"
        return
    for each in value:
        if _is_block(each):
            first, *rest = _lines(each, indent + _INDENT)
            yield f"{pad}- {first[indent + _INDENT :]}"
            yield from rest
        else:
            yield f"{pad}- {_scalar(each)}"


def _is_block(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)  # numbers, true, false, null, and what is empty
    if _WORD.fullmatch(value) and value.lower() not in _MEANING:
        return str(value)
    quoted = json.dumps(value, ensure_ascii=False)
    # YAML allows fewer characters to stand for themselves than JSON.
    return "".join(each if each.isprintable() else _escape(each) for each in quoted)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
