"""Print every Debian package that a build installed, with what finds the same file again, as one JSON object.

Also those that were there for the build alone: without them the build could not be repeated. Where a package's file is
in the archive and what digest it has comes from the indexes that apt used. A package that the build made itself is in
no index and left out.

Usage: vllmd_packages.py TREE

{"packages": {NAME: {"version", "architecture", "sha256", "size_bytes", "filename", "source", "licences"}}}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

Key = tuple[str, str, str]


def installed(tree: Path) -> set[Key]:
    """Return name, version and architecture of what was installed at any time of the build.

    The bootstrap left a list; what came later stands in dpkg's log (dpkg(1): "<time> status <state> <pkg> <version>").
    """
    found: set[Key] = set()
    for row in (tree / "var/lib/vllmd-packages").read_text(encoding="utf-8").splitlines():
        name, version, architecture = row.split()
        found.add((name, version, architecture))
    log = tree / "var/log/dpkg.log"
    for row in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        words = row.split()
        if len(words) == 6 and words[2:4] == ["status", "installed"]:
            name, _colon, architecture = words[4].partition(":")
            found.add((name, words[5], architecture))
    return found


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a Packages index, only fields of one line."""
    stanza: dict[str, str] = {}
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line == "\n":
                yield stanza
                stanza = {}
            elif not line[0].isspace():
                field, _colon, value = line.partition(":")
                stanza[field] = value.strip()
    if stanza:
        yield stanza


def licences(tree: Path, name: str) -> list[str]:
    """Return the short names of licences in the package's copyright file, when that is in the machine-readable format.

    Empty for others and for packages that are not in the image (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/).
    """
    try:
        lines = (tree / "usr/share/doc" / name / "copyright").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    if not lines or not lines[0].startswith("Format:"):
        return []
    fields = (line.partition(":")[2].strip() for line in lines if line.startswith("License:"))
    return sorted({field for field in fields if field and len(field) < 80})


def pins(tree: Path) -> dict[str, dict[str, object]]:
    """Return the pins of all installed packages that an index knows, by name."""
    wanted = installed(tree)
    found: dict[str, dict[str, object]] = {}
    for index in sorted((tree / "var/lib/apt/lists").glob("*_Packages")):
        for stanza in stanzas(index):
            key = (stanza.get("Package", ""), stanza.get("Version", ""), stanza.get("Architecture", ""))
            if key in wanted:
                source, _space, version = stanza.get("Source", key[0]).partition(" ")
                found[key[0]] = {
                    "version": key[1],
                    "architecture": key[2],
                    "sha256": stanza["SHA256"],
                    "size_bytes": int(stanza["Size"]),
                    "filename": stanza["Filename"].removeprefix("./"),
                    "source": f"{source} {version.strip('()') or key[1]}",
                    "licences": licences(tree, key[0]),
                }
    return dict(sorted(found.items()))


if __name__ == "__main__":
    print(json.dumps({"packages": pins(Path(sys.argv[1]))}))
