#!/usr/bin/env python3
"""Make what an operator gives element vllmd-nvidia: a signed repository and a directory of packages.

Usage: operator_packages.py DIRECTORY      makes DIRECTORY/{repository,debs,key.asc}

NVIDIA's container toolkit and fabric manager are in no repository of Debian's. Programs that only say who they are
stand for them: what is tested is how they get into the image, and that containerd and the units find them there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support import apt_repository

TOOLKIT = {
    "usr/bin/nvidia-container-runtime": '#!/bin/sh\nexec runc "$@"\n',
    "usr/bin/nvidia-ctk": "#!/bin/sh\necho stand-in for nvidia-ctk\n",
}
FABRIC_MANAGER = {"usr/bin/nv-fabricmanager": "#!/bin/sh\necho stand-in for nv-fabricmanager\n"}


def main() -> None:
    """Make the two directories and the key."""
    work = Path(sys.argv[1])
    for name in ("repository", "debs"):
        (work / name).mkdir(parents=True)
    apt_repository.package(work / "repository", "nvidia-container-toolkit", "1.0-1", TOOLKIT)
    apt_repository.package(work / "debs", "nvidia-fabricmanager", "1.0-1", FABRIC_MANAGER)
    with tempfile.TemporaryDirectory() as private:
        key = apt_repository.sign(work / "repository", Path(private))
        (work / "key.asc").write_bytes(key.read_bytes())


if __name__ == "__main__":
    main()
