#!/usr/bin/env python3
"""Make Kubernetes' programs of another version from those that are there, for a cluster that is upgraded.

Usage: next_version.py PROGRAMS VERSION OUT     e.g. 1.20.2 -> 1.20.3 or 1.21.0

The code is the same, and only the version that each program says of itself is another one: the linker has put it there
as text, so a text of the same length takes its place. That is enough to prove how an upgrade goes, and nothing of what
a newer release does differently.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main() -> int:
    """Write the programs; return the exit status."""
    programs, version, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    before = (programs / "VERSION").read_text(encoding="ascii").strip()
    old, new = f"v{before}".encode(), f"v{version}".encode()
    if len(old) != len(new):
        print(f"{version} cannot take the place of {before}: it is not as long", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(programs.iterdir()):
        if path.name == "VERSION":
            (out / path.name).write_text(f"{version}\n", encoding="ascii")
        elif path.name == "crictl":
            shutil.copy(path, out / path.name)
        else:
            (out / path.name).write_bytes(path.read_bytes().replace(old, new))
            (out / path.name).chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
