# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Runtime manifests: read, validate, and return them as plain data with every default applied.

The rules that a JSON Schema can say are in ``schemas/runtime-v1alpha1.schema.json``, the others in ``manifest_rules``,
the defaults in ``manifest_defaults``. A refused manifest gives one line per wrong field::

    runtime.yaml:14:5: field spec.scaling.replicas: unknown field; allowed: maxReplicas, minReplicas
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

from .manifest_defaults import with_defaults
from .manifest_rules import rule_problems
from .manifest_schema import Problem, schema_problems
from .regular_files import read_regular
from .yaml_marks import LARGEST_BYTES, YamlProblem, load_all


class ManifestError(ValueError):
    """Manifests are refused; ``problems`` holds one line per wrong field, each with file, line and column."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    @classmethod
    def at(cls, source: str, problems: Iterable[Problem]) -> ManifestError:
        """Return the error for problems of one file."""
        return cls(f"{_one_line(source)}:{each.line}:{each.column}: {each.message}" for each in problems)


def _one_line(source: str) -> str:
    """Return a file's name as a person can read it in one line, whatever characters it has."""
    return source if source.isprintable() else repr(source)


def read_runtimes(paths: Iterable[FilePath]) -> list[dict[str, Any]]:
    """Read every manifest in ``paths``; a directory stands for its ``*.yaml`` and ``*.yml`` files, sorted.

    Returns one dict per Runtime as `load_runtimes` does, in order; a file named twice is read once. Raises
    ManifestError with the problems of all files when one cannot be read, is refused, or uses the name of another.
    """
    runtimes: list[dict[str, Any]] = []
    problems: list[str] = []
    for path in _files(paths):
        try:
            runtimes.extend(load_runtimes(_read_text(path), str(path)))
        except ManifestError as error:
            problems.extend(error.problems)
    problems.extend(_name_problems(runtimes))
    if problems:
        raise ManifestError(problems)
    return runtimes


def load_runtimes(text: str, source: str) -> list[dict[str, Any]]:
    """Validate the manifests in ``text`` and return them as plain data; ``source`` is the file's name for messages.

    One dict per document, in the manifest's own shape with defaults applied (see `manifest_defaults.with_defaults`)
    and ``source`` (``path``, ``line``, ``column`` of its name). Raises ManifestError, and nothing else, for any text.
    """
    try:
        documents = load_all(text)
    except YamlProblem as error:
        raise ManifestError.at(source, [Problem(error.mark.line, error.mark.column, error.message)]) from None
    runtimes = []
    problems: list[Problem] = []
    for document in documents:
        found = set(schema_problems(document)) or set(rule_problems(document))
        problems.extend(found)
        if not found:
            mark = document.mark(("metadata", "name"))
            runtimes.append(
                {
                    **with_defaults(document.data),
                    "source": {"path": source, "line": mark.line, "column": mark.column},
                }
            )
    lines = ManifestError.at(source, sorted(problems)).problems or list(_name_problems(runtimes))
    if lines:
        raise ManifestError(lines)
    return runtimes


def load_runtime(text: str, source: str) -> dict[str, Any]:
    """Return the only manifest in ``text``, as `load_runtimes` does; several are a ManifestError."""
    runtimes = load_runtimes(text, source)
    if len(runtimes) > 1:
        second = runtimes[1]["source"]
        message = f"a second Runtime, {runtimes[1]['metadata']['name']!r}; allowed here: one"
        raise ManifestError.at(source, [Problem(second["line"], second["column"], message)])
    return runtimes[0]


def _name_problems(runtimes: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield one line per Runtime that has the name of an earlier one."""
    first_by_name: dict[str, dict[str, Any]] = {}
    for runtime in runtimes:
        name, source = runtime["metadata"]["name"], runtime["source"]
        other = first_by_name.setdefault(name, runtime)["source"]
        if other is not source:
            message = (
                f"field metadata.name: {name!r} is also the name in {_one_line(other['path'])}:{other['line']}; "
                "names are unique"
            )
            yield from ManifestError.at(source["path"], [Problem(source["line"], source["column"], message)]).problems


def _files(paths: Iterable[FilePath]) -> Iterator[FilePath]:
    """Yield the files that ``paths`` stand for, each once."""
    seen: set[FilePath] = set()
    for path in paths:
        for file in _directory(path) if path.is_dir() else [path]:
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield file


def _directory(path: FilePath) -> list[FilePath]:
    try:
        found = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml") and each.is_file())
    except OSError as error:
        raise _unreadable(path, f"cannot read the directory: {error.strerror}") from None
    if not found:
        raise _unreadable(path, "the directory holds no manifest; expected files that end in .yaml or .yml")
    return found


def _unreadable(path: FilePath, message: str, line: int = 1, column: int = 1) -> ManifestError:
    return ManifestError.at(str(path), [Problem(line, column, message)])


def _read_text(path: FilePath) -> str:
    try:
        content = read_regular(path, LARGEST_BYTES)
        # Editors on other systems begin a file with a byte order mark; it is no part of the text.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)
        line, column = content.count(b"\n", 0, start) + 1, start - content.rfind(b"\n", 0, start)
        message = f"not UTF-8 text: byte 0x{content[start]:02x}; save the file as UTF-8"
        raise _unreadable(path, message, line, column) from None
    except OSError as error:
        raise _unreadable(path, f"cannot read the manifest: {error.strerror or error}") from None
