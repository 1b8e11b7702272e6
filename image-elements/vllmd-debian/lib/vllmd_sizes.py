"""Print where the bytes of a finished tree are, as one JSON object (its fields: image-elements/README.rst).

Usage: vllmd_sizes.py TREE

A file belongs to the Debian package or the Python wheel that installed it, compiled Python to its source's owner, and
every byte to one layer. A package belongs to the element whose package-installs.yaml asks for it or for what needs it;
vllmd-debian gets what remains. Elements that install by other means name packages and paths, one a line, in
/usr/share/vllmd/layers.d/ELEMENT of the image. Bytes are file sizes, a file with several names counted once.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

BASE = "vllmd-debian"
#: /bin and friends are links into /usr, while packages may list their files by the old names.
_MERGED = re.compile(r"^/(bin|sbin|lib|lib32|lib64|libx32)(?=/|$)")
_CACHED = re.compile(r"/__pycache__/([^/]+)\.[a-z]+-[0-9]+(\.opt-[12])?\.pyc$")
_ENVIRONMENT = "/opt/vllmd"
_MODELS = "/var/lib/vllmd/models/"


def merged(path: str) -> str:
    """Return the absolute ``path`` as it is in a tree whose /bin, /lib and so on are links to /usr."""
    return _MERGED.sub(r"/usr/\1", path)


def source_of(path: str) -> str:
    """Return the source file that compiled Python was made from, and any other path as it is."""
    return _CACHED.sub(r"/\1.py", path)


def files(tree: Path) -> Iterator[tuple[str, int]]:
    """Yield absolute path and size in bytes of each regular file in ``tree``, none of another file system."""
    device = tree.lstat().st_dev
    seen: set[int] = set()
    for directory, names, entries in os.walk(tree):
        names[:] = sorted(name for name in names if os.lstat(f"{directory}/{name}").st_dev == device)
        for entry in sorted(entries):
            status = os.lstat(f"{directory}/{entry}")
            if stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
                yield f"/{os.path.relpath(f'{directory}/{entry}', tree)}", status.st_size


def package_files(tree: Path) -> dict[str, str]:
    """Return the Debian package that each path belongs to, by dpkg's lists."""
    owners: dict[str, str] = {}
    for listing in sorted((tree / "var/lib/dpkg/info").glob("*.list")):
        name = listing.stem.partition(":")[0]
        for line in listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            path = merged(line)
            if not (tree / path[1:]).is_dir():
                owners.setdefault(path, name)
        owners[f"/var/lib/dpkg/info/{listing.name}"] = name
    return owners


def wheel_files(tree: Path) -> dict[str, str]:
    """Return the wheel that each path in the guest's environment belongs to, by the RECORD of each."""
    owners: dict[str, str] = {}
    for record in sorted((tree / _ENVIRONMENT[1:]).glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        site = f"/{record.parent.parent.relative_to(tree)}"
        name = record.parent.name.removesuffix(".dist-info").rpartition("-")[0].lower().replace("_", "-")
        with record.open(encoding="utf-8", newline="") as stream:
            for row in csv.reader(stream):
                owners.setdefault(os.path.normpath(f"{site}/{row[0]}"), name)
    return owners


def status_of(tree: Path) -> dict[str, list[str]]:
    """Return each installed package with the names, virtual ones resolved, that it depends on."""
    text = (tree / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    stanzas = [dict(re.findall(r"^([A-Za-z-]+): ?(.*)$", stanza, re.MULTILINE)) for stanza in text.split("\n\n")]
    installed = [stanza for stanza in stanzas if stanza.get("Status", "").endswith(" installed")]
    provided = {
        name: stanza["Package"] for stanza in installed for name in (stanza["Package"], *_names(stanza.get("Provides")))
    } | {stanza["Package"]: stanza["Package"] for stanza in installed}
    return {
        stanza["Package"]: sorted(
            {provided[name] for name in _names(stanza.get("Depends"), stanza.get("Pre-Depends")) if name in provided}
        )
        for stanza in installed
    }


def _names(*fields: str | None) -> list[str]:
    alternatives = [each for field in fields if field for part in field.split(",") for each in part.split("|")]
    return [re.split(r"[\s:(]", each.strip())[0] for each in alternatives if each.strip()]


def closure(roots: Iterable[str], depends: Mapping[str, list[str]]) -> set[str]:
    """Return the ``roots`` that are installed and what they need."""
    found: set[str] = set()
    waiting = [name for name in roots if name in depends]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(depends[name])
    return found


def package_layers(depends: Mapping[str, list[str]], asked: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the layer of each package; ``asked`` maps elements, lowest first, to the packages they ask for."""
    layers = dict.fromkeys(closure(asked.get(BASE, ()), depends), BASE)
    for element, roots in asked.items():
        for name in sorted(closure(roots, depends)):
            layers.setdefault(name, element)
    return {name: layers.get(name, BASE) for name in depends}


def declarations(tree: Path) -> dict[str, list[str]]:
    """Return what elements declare in layers.d, element to lines."""
    return {
        path.name: [line for line in path.read_text(encoding="utf-8").split("\n") if line and line[0] != "#"]
        for path in sorted((tree / "usr/share/vllmd/layers.d").glob("*"))
    }


def services(tree: Path) -> list[str]:
    """Return the units that start by themselves: those that some target wants or requires."""
    roots = [tree / "etc/systemd/system", tree / "usr/lib/systemd/system"]
    found = (path for root in roots for kind in ("wants", "requires") for path in root.glob(f"*.target.{kind}/*"))
    masked = {path.name for path in roots[0].glob("*") if path.is_symlink() and str(path.readlink()) == "/dev/null"}
    names = {path.name for path in found}
    return sorted(name for name in names if name not in masked and re.sub("@.*[.]", "@.", name) not in masked)


def shortened(path: str, depth: int) -> str:
    """Return the directory of ``path``, at most ``depth`` names deep."""
    return "/".join(path.rpartition("/")[0].split("/")[: depth + 1]) or "/"


def sizes(tree: Path, asked: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the object that is printed. ``asked`` as for `package_layers`."""
    declared = declarations(tree)
    wanted = {name: [*asked.get(name, ()), *declared.get(name, ())] for name in {**dict.fromkeys(asked), **declared}}
    layer_of = package_layers(status_of(tree), wanted)
    prefixes = sorted(
        ((line.rstrip("/"), name) for name, lines in declared.items() for line in lines if line.startswith("/")),
        key=lambda pair: -len(pair[0]),
    )
    by_package, by_wheel = package_files(tree), wheel_files(tree)
    totals: dict[str, Counter[str]] = {
        key: Counter() for key in ("layers", "packages", "wheels", "models", "directories")
    }
    others: dict[str, Counter[str]] = {}
    count = 0
    for path, size in files(tree):
        count += 1
        source = source_of(path)
        package = by_package.get(path) or by_package.get(source)
        layer = next((name for prefix, name in prefixes if path == prefix or path.startswith(f"{prefix}/")), BASE)
        if package is not None:
            totals["packages"][package] += size
            layer = layer_of.get(package, BASE)
        wheel = by_wheel.get(path) or by_wheel.get(source)
        if wheel is not None:
            totals["wheels"][wheel] += size
        if path.startswith(_MODELS):
            totals["models"][path[len(_MODELS) :].partition("/")[0]] += size
        elif package is None and wheel is None:
            others.setdefault(layer, Counter())[shortened(path, 3)] += size
        totals["layers"][layer] += size
        totals["directories"][shortened(path, 2)] += size
    return {
        "schema_version": 1,
        "files": count,
        "total_bytes": sum(totals["layers"].values()),
        "services": services(tree),
        "package_layers": {name: layer for name, layer in sorted(layer_of.items()) if layer != BASE},
        "others": {layer: dict(sorted(counter.items())) for layer, counter in sorted(others.items())},
        **{key: dict(sorted(counter.items())) for key, counter in totals.items()},
    }


def main() -> None:
    """Print the sizes of the tree; the elements and their packages come from dib's environment."""
    import yaml  # noqa: PLC0415 -- diskimage-builder brings it; importing the functions does not need it

    elements = yaml.safe_load(os.environ.get("IMAGE_ELEMENT_YAML", "{}")) or {}
    asked: dict[str, list[str]] = {}
    for name in sorted(elements, key=lambda name: name != BASE):
        listing = Path(elements[name], "package-installs.yaml")
        if listing.is_file():
            wanted = yaml.safe_load(listing.read_text(encoding="utf-8")) or {}
            asked[name] = [package for package, how in wanted.items() if not (how or {}).get("build-only")]
    print(json.dumps(sizes(Path(sys.argv[1]), asked), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
