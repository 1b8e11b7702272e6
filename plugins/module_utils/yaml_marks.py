# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read YAML documents as plain data together with the line and column of every field.

Stricter than ``yaml.safe_load_all`` on purpose: a duplicate key, an alias, a merge key, a tag, or a number such as 010
(eight in YAML 1.1) would each be read silently as something that the author may not have meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

try:
    import yaml
except ImportError:  # the caller's environment lacks PyYAML; load() says so
    yaml = None  # type: ignore[assignment]

Path = tuple["str | int", ...]

#: A manifest is a page of text. The limits keep a hostile file from costing memory or recursion.
LARGEST_BYTES = 1024 * 1024
DEEPEST_LEVEL = 24
#: The forms that YAML 1.1 and YAML 1.2 read as the same number; the others (0b1, 010, 1_000, 1:30) are text.
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9A-Fa-f]+", re.ASCII),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII
    ),
}
_SURROGATES = re.compile("[\ud800-\udfff]")
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))


@dataclass(frozen=True)
class Mark:
    """A place in a file; line and column count from 1."""

    line: int
    column: int


class YamlProblem(Exception):
    """The text is not plain YAML; ``message`` is one line without the place."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = " ".join(message.split())


@dataclass(frozen=True)
class Document:
    """Plain data with the place and the source text of each field, by path from the root (``()``)."""

    data: Any
    keys: dict[Path, Mark]
    values: dict[Path, Mark]
    sources: dict[Path, str]

    def mark(self, path: Path) -> Mark:
        """Return where the field at ``path`` is named, or the nearest parent's place."""
        for length in range(len(path), -1, -1):
            head = path[:length]
            found = self.keys.get(head) or self.values.get(head)
            if found:
                return found
        return Mark(1, 1)


def load_all(text: str) -> list[Document]:
    """Parse ``text`` and return its documents with their places; empty ones among several are left out.

    Raises YamlProblem for text that is no YAML or empty, or that uses aliases, merge keys, tags, duplicate keys or keys
    that are not strings. Never raises anything else for any text.
    """
    if yaml is None:
        raise YamlProblem(Mark(1, 1), "cannot be read: the Python package PyYAML is missing; install PyYAML")
    if len(text) > LARGEST_BYTES:
        raise YamlProblem(Mark(1, 1), f"the file has {len(text)} characters; allowed: at most {LARGEST_BYTES}")
    try:
        _check_events(text)
        roots = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        raise YamlProblem(_mark(error.problem_mark or error.context_mark), _yaml_sentence(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise YamlProblem(Mark(line, column), f"not YAML: character #x{error.character:04x} is not allowed") from None
    except ValueError as error:  # PyYAML's scanner converts escapes such as \U99999999 without a check
        raise YamlProblem(Mark(1, 1), f"not YAML: {' '.join(str(error).split())[:120]}") from None
    documents = [_document(root, text) for root in roots if not _is_empty(root)]
    if not documents:
        raise YamlProblem(Mark(1, 1), "the file is empty; expected a mapping with apiVersion, kind, metadata and spec")
    return documents


def _document(root: Any, text: str) -> Document:
    builder = _Builder(text)
    data = builder.build(root, ())
    return Document(data, builder.keys, builder.values, builder.sources)


def _is_empty(root: Any) -> bool:
    return isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null" and root.value == ""


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark(1, 1)


def _yaml_sentence(error: Any) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return "not YAML: " + " ".join(", ".join(parts).split())


def _check_events(text: str) -> None:
    """Refuse what needs no tree to be seen. The parser is a state machine, so depth costs no recursion here."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            raise YamlProblem(mark, f"alias *{event.anchor}: aliases are not allowed; write the value out")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > DEEPEST_LEVEL:
                raise YamlProblem(mark, f"nested deeper than {DEEPEST_LEVEL} levels; a Runtime has at most 7")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


class _Builder:
    """Turns PyYAML nodes into plain data and remembers where each field stood."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._scalars = yaml.constructor.SafeConstructor()
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}
        self.sources: dict[Path, str] = {}

    def build(self, node: Any, path: Path) -> Any:
        mark = _mark(node.start_mark)
        self.values[path] = mark
        if isinstance(node, yaml.MappingNode):
            self._plain_tag(node, mark)
            return {key: self.build(child, (*path, key)) for key, child in self._pairs(node, path)}
        if isinstance(node, yaml.SequenceNode):
            self._plain_tag(node, mark)
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        self.sources[path] = node.value
        return self._scalar(node, mark)

    def _pairs(self, node: Any, path: Path) -> list[tuple[str, Any]]:
        pairs: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node.start_mark)
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise YamlProblem(mark, "merge key <<: merge keys are not allowed; write the fields out")
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                found = self._text[key_node.start_mark.index : key_node.end_mark.index][:40]
                raise YamlProblem(mark, f"field name {found!r} is not a string; put it in quotes")
            key = key_node.value
            if key in pairs:
                first = self.keys[(*path, key)]
                name = dotted((*path, key))
                raise YamlProblem(mark, f"field {name}: duplicate key, first on line {first.line}; remove one")
            self.keys[(*path, key)] = mark
            pairs[key] = value_node
        return list(pairs.items())

    @staticmethod
    def _plain_tag(node: Any, mark: Mark) -> None:
        if node.tag not in _PLAIN_TAGS:
            raise YamlProblem(mark, f"tag {node.tag[:60]!r} is not allowed; write plain YAML without tags")

    def _scalar(self, node: Any, mark: Mark) -> Any:
        if node.style is None and node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # a date is text here: no field holds one
        if node.tag in ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"):
            return node.value
        number = _NUMBERS.get(node.tag)
        if number and node.style is None and not number.fullmatch(node.value):
            return node.value
        self._plain_tag(node, mark)
        if _SURROGATES.search(node.value):
            raise YamlProblem(mark, "half of a surrogate pair is no character; write the character itself")
        try:
            return self._scalars.construct_object(node)
        except (ValueError, LookupError, yaml.YAMLError):
            # YAML 1.1 resolves texts such as "0b_" or ".e" as numbers that have no value: they are text.
            return node.value


def dotted(path: Path) -> str:
    """Return ``("spec", "network", "forward", 0)`` as ``spec.network.forward[0]``, on one line."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return " ".join(text.lstrip(".").split()) or "(document)"
