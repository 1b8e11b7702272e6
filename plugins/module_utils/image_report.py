# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a build made, for a person: where the bytes are, what changed since the version before, where the time went.

Pure functions over manifest, ``sizes.json`` and log. `compose` makes one plain dict of them, `markdown` and
`image_report_page.page` render it; the same dict gives the same text. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import atomic, image_report_page
from .image_manifest import MANIFEST_NAME
from .quantities import difference, human

SIZES_NAME = "sizes.json"
BUILD_NAME = "build.json"
MARKDOWN_NAME = "report.md"
PAGE_NAME = "report.html"

#: What one row of the largest things is: name, kind, layer, bytes.
Part = dict[str, Any]
_LARGEST = 25
_SLOWEST = 12
_BAR = 40  # characters of the longest bar
_OPTIONAL = ("nvidia", "kubernetes", "rootfs")

_TARGET = re.compile(r"dib-run-parts Target: (\S+)\s*$")
_SCRIPT = re.compile(r"dib-run-parts (\S+)\s+([0-9]+(?:\.[0-9]+)?)\s*$")
_END = re.compile(r"dib-run-parts -+ END PROFILING -+\s*$")


def phases(log: str) -> dict[str, list[tuple[str, float]]]:
    """Return the seconds of each element script by phase (``install.d``), from diskimage-builder's log.

    A phase that ran more than once, because layers are built one after another, has the scripts of every run.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    phase = ""
    for line in log.splitlines():
        target = _TARGET.search(line)
        script = _SCRIPT.search(line)
        if target:
            phase = target[1]
        elif _END.search(line):
            phase = ""
        elif phase and script:
            found.setdefault(phase, []).append((script[1], float(script[2])))
    return found


def parts(manifest: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[Part]:
    """Return packages, wheels, models and, by directory, all other files, with their layers, largest first."""
    layers = sizes.get("package_layers", {})
    found: list[Part] = [
        _part(name, "package", layers.get(name, "vllmd-debian"), size, manifest["packages"].get(name, ""))
        for name, size in sizes.get("packages", {}).items()
    ]
    versions = {name.lower().replace("_", "-"): version for name, version in manifest["wheels"].items()}
    found += [
        _part(name, "wheel", "vllmd-vllm", size, versions.get(name, ""))
        for name, size in sizes.get("wheels", {}).items()
    ]
    found += [_part(name, "model", "vllmd-model", size, "") for name, size in sizes.get("models", {}).items()]
    for layer, directories in sizes.get("others", {}).items():
        found += [_part(f"{name}/*", "files", layer, size, "") for name, size in directories.items()]
    return sorted(found, key=lambda part: (-part["bytes"], part["kind"], part["name"]))


def _part(name: str, kind: str, layer: str, size: int, version: str) -> Part:
    return {"name": name, "kind": kind, "layer": layer, "bytes": size, "version": version}


def changes(
    before: Mapping[str, str],
    after: Mapping[str, str],
    bytes_before: Mapping[str, int],
    bytes_after: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return what came, went or has another version: ``name``, ``before``, ``after``, ``bytes`` gained; by size."""
    rows = [
        {
            "name": name,
            "before": before.get(name, ""),
            "after": after.get(name, ""),
            "bytes": bytes_after.get(name, 0) - bytes_before.get(name, 0),
        }
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    return sorted(rows, key=lambda row: (-abs(row["bytes"]), row["name"]))


def compose(
    manifest: Mapping[str, Any],
    sizes: Mapping[str, Any],
    times: Mapping[str, Sequence[tuple[str, float]]],
    *,
    layers: Sequence[Mapping[str, Any]] = (),
    before: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    signed_by: str | None = None,
) -> dict[str, Any]:
    """Return the report as plain data.

    ``sizes`` is what the elements measured, empty when they did not; ``times`` what `phases` returns; ``layers`` how
    each layer was made (``name``, ``reused``, ``seconds``); ``before`` manifest and sizes of the version that was the
    latest; ``signed_by`` the signing key's id.
    """
    report: dict[str, Any] = {
        "name": manifest["name"],
        "version": manifest["version"],
        "facts": {
            "profile": manifest["profile"],
            "Debian": " ".join(str(value) for _key, value in sorted(manifest["debian"].items(), reverse=True)),
            "kernel": manifest["kernel_release"],
            "made": manifest["created"],
            "command line": manifest["cmdline"],
            **{name: _words(manifest[name]) for name in _OPTIONAL if manifest.get(name)},
            "signature": f"by key {signed_by}" if signed_by else "not signed when it was made",
        },
        "files": {name: dict(entry) for name, entry in sorted(manifest["files"].items())},
        "inputs": dict(sorted(manifest["inputs"].items())),
        "total_bytes": sizes.get("total_bytes", 0),
        "file_count": sizes.get("files", 0),
        "layers": dict(sorted(sizes.get("layers", {}).items(), key=lambda item: (-item[1], item[0]))),
        "parts": parts(manifest, sizes) if sizes else [],
        "services": list(sizes.get("services", [])),
        "made": [
            (str(layer.get("name", "?")), "reused" if layer.get("reused") else "built", str(layer.get("seconds", "")))
            for layer in layers
        ],
        "phases": {name: round(sum(seconds for _script, seconds in found), 1) for name, found in times.items()},
        "slowest": [
            {"script": f"{phase}/{script}", "seconds": seconds}
            for phase, script, seconds in sorted(
                ((phase, script, seconds) for phase, found in times.items() for script, seconds in found),
                key=lambda row: -row[2],
            )[:_SLOWEST]
            if seconds >= 0.1
        ],
        "since": None,
    }
    if before is not None:
        old, old_sizes = before
        report["since"] = {
            "version": old["version"],
            "bytes": report["total_bytes"] - old_sizes["total_bytes"] if sizes and old_sizes else None,
            "packages": changes(
                old["packages"], manifest["packages"], old_sizes.get("packages", {}), sizes.get("packages", {})
            ),
            "wheels": changes(old["wheels"], manifest["wheels"], old_sizes.get("wheels", {}), sizes.get("wheels", {})),
            "models": changes(_models(old), _models(manifest), old_sizes.get("models", {}), sizes.get("models", {})),
            "inputs": [name for name in report["inputs"] if old["inputs"].get(name) != report["inputs"][name]]
            + [f"{name} (gone)" for name in sorted(old["inputs"]) if name not in report["inputs"]],
        }
    return report


def _models(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {str(model.get("name")): str(model.get("digest")) for model in manifest["models"] if isinstance(model, dict)}


def _words(value: Any) -> str:
    """Return plain data in one line: ``driver 550.163, families turing ampere``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items() if not isinstance(each, Mapping))
    if isinstance(value, (list, tuple)):
        return " ".join(str(each) for each in value)
    return str(value)


def _cell(text: Any) -> str:
    """Return ``text`` so that Markdown shows it as it is, in one cell of a table."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    body = [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""] if body else ["none", ""]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown, bars drawn with characters."""
    lines = [f"# Image {_cell(report['name'])} {_cell(report['version'])}", ""]
    if report["parts"]:
        lines += [f"{human(report['total_bytes'])} in {report['file_count']} files.", ""]
    lines += _table(["", ""], report["facts"].items())
    if report["layers"]:
        largest = max(1, *report["layers"].values())
        total = max(1, report["total_bytes"])
        lines += ["## Size by layer", "", "```"]
        for name, size in report["layers"].items():
            drawn = "█" * max(1, round(size / largest * _BAR))
            lines.append(f"{name.replace('`', '')[:24]:<24} {human(size):>8} {100 * size / total:5.1f} %  {drawn}")
        lines += ["```", "", f"## The {_LARGEST} largest parts", ""]
        rows = (
            (part["name"], part["version"], part["kind"], part["layer"], human(part["bytes"]))
            for part in report["parts"][:_LARGEST]
        )
        lines += _table(["name", "version", "kind", "layer", "size"], rows)
    lines += _since(report["since"])
    if report["made"]:
        lines += ["## Layers of this build", ""]
        lines += _table(["layer", "how", "seconds"], report["made"])
    if report["phases"]:
        lines += ["## Time", ""]
        lines += _table(["phase", "seconds"], report["phases"].items())
        lines += _table(["slowest steps", "seconds"], [(row["script"], row["seconds"]) for row in report["slowest"]])
    lines += ["## Files", ""]
    files = ((name, human(entry["size_bytes"]), entry["sha256"]) for name, entry in report["files"].items())
    lines += _table(["file", "size", "SHA-256"], files)
    lines += ["## Services that start by themselves", "", _cell(", ".join(report["services"])) or "unknown", ""]
    lines += ["## Inputs", "", *_table(["input", "value or digest"], report["inputs"].items())]
    return "\n".join(lines)


def _since(since: Mapping[str, Any] | None) -> list[str]:
    if since is None:
        return []
    gained = "" if since["bytes"] is None else f" ({difference(since['bytes'])})"
    lines = [f"## Changed since {_cell(since['version'])}{gained}", ""]
    for kind in ("packages", "wheels", "models"):
        if since[kind]:
            lines += _table([kind, "before", "now", "size"], image_report_page.change_rows(since[kind]))
    return [*lines, f"Inputs that differ: {_cell(', '.join(since['inputs'])) or 'none'}", ""]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; empty when there is none, which is what images of old builds have."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write(directory: Path, report: Mapping[str, Any]) -> None:
    """Write report.md and report.html into ``directory``. Raises OSError."""
    atomic.write_file(directory / MARKDOWN_NAME, markdown(report).encode(), 0o444)
    atomic.write_file(directory / PAGE_NAME, image_report_page.page(report).encode(), 0o444)


def write_beside(
    directory: Path, manifest: Mapping[str, Any], *, before: Path | None, log: Path, signed_by: str | None
) -> None:
    """Write the report of the image in ``directory``, whose build's log is ``log``.

    ``before`` is the directory of the version that was the latest, compared with when it has a manifest and is another
    version. Raises OSError.
    """
    old = read_object(before / MANIFEST_NAME) if before and before.name != manifest["version"] else {}
    report = compose(
        manifest,
        read_object(directory / SIZES_NAME),
        phases(log.read_text(encoding="utf-8", errors="replace")),
        layers=read_object(directory / BUILD_NAME).get("layers", []),
        before=(old, read_object(before / SIZES_NAME)) if before and old else None,
        signed_by=signed_by,
    )
    write(directory, report)
