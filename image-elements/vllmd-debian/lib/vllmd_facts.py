"""Print the facts about a finished tree as one JSON object (its fields: image-elements/README.rst).

Usage: vllmd_facts.py TREE KERNEL_RELEASE [DIRECTORY]

Elements add fields by leaving JSON files at /usr/share/vllmd/facts.d/FIELD.json in the image; DIRECTORY has more of the
kind, which the image itself does not carry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def packages(tree: Path) -> dict[str, str]:
    """Return the installed Debian packages of ``tree``, name -> version."""
    query = [
        "dpkg-query",
        f"--admindir={tree}/var/lib/dpkg",
        "--show",
        "--showformat",
        "${db:Status-Status} ${Package} ${Version}\\n",
    ]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = (line.split() for line in lines)
    return {name: version for status, name, version in rows if status == "installed"}


def facts(tree: Path, kernel_release: str, more: list[Path], environment: dict[str, str]) -> dict[str, object]:
    """Collect the facts; ``environment`` is dib's, ``more`` are directories like the image's facts.d."""
    result: dict[str, object] = {
        "schema_version": 1,
        "debian": {"release": environment["DIB_RELEASE"], "architecture": environment["ARCH"]},
        "kernel_release": kernel_release,
        "cmdline": f"{environment['DIB_VLLMD_CMDLINE']} {environment.get('DIB_VLLMD_CMDLINE_HARDENING', '')}".strip(),
        "elements": sorted(name for name in environment["IMAGE_ELEMENT"].split() if name.startswith("vllmd-")),
        "packages": packages(tree),
    }
    for directory in (tree / "usr/share/vllmd/facts.d", *more):
        for path in sorted(directory.glob("*.json")):
            result[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    directories = [Path(argument) for argument in sys.argv[3:]]
    print(json.dumps(facts(Path(sys.argv[1]), sys.argv[2], directories, dict(os.environ)), indent=1, sort_keys=True))
