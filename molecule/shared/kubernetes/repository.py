#!/usr/bin/env python3
"""Offer Kubernetes' programs as an operator would: a signed apt repository of packages. Prints where it is.

Usage: repository.py PROGRAMS VERSION [CACHE]     makes CACHE/apt-DIGEST/{packages,key.asc} once per set of programs

The packages are named and laid out as the project's own: kubelet, kubeadm (with kubelet's drop-in), kubectl, cri-tools.
The key that signs them is made for this repository and thrown away.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.support import apt_repository  # noqa: E402 -- needs the path above

UNIT = ROOT / "image-elements/vllmd-kubernetes-node/lib/kubelet.service"
DROP_IN = Path(__file__).with_name("10-kubeadm.conf")
PACKAGES: dict[str, dict[str, str | Path]] = {
    "kubelet": {"usr/bin/kubelet": "kubelet", "lib/systemd/system/kubelet.service": UNIT},
    "kubeadm": {"usr/bin/kubeadm": "kubeadm", "lib/systemd/system/kubelet.service.d/10-kubeadm.conf": DROP_IN},
    "kubectl": {"usr/bin/kubectl": "kubectl"},
    "cri-tools": {"usr/bin/crictl": "crictl"},
}


def contents(programs: Path) -> dict[str, dict[str, Path]]:
    """Return the file for each path of each package."""
    return {
        name: {path: programs / source for path, source in files.items()}  # an absolute path stays what it is
        for name, files in PACKAGES.items()
    }


def key(version: str, packages: dict[str, dict[str, Path]]) -> str:
    """Digest of everything that goes into the repository."""
    digest = hashlib.sha256(f"{version}\0{Path(__file__).read_text(encoding='utf-8')}".encode())
    for files in packages.values():
        for source in files.values():
            with source.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def make(target: Path, version: str, packages: dict[str, dict[str, Path]]) -> None:
    """Make packages and repository beside `target` and rename; nothing stays of what fails."""
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a run that was killed; the lock is ours
        shutil.rmtree(leftover)
    with (
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name,
        tempfile.TemporaryDirectory() as private,  # gpg's socket is in it, and a socket's path has to be short
    ):
        out = Path(name, "out")
        (out / "packages").mkdir(parents=True)
        for package, files in packages.items():
            apt_repository.package(out / "packages", package, f"{version}-1.1", files, compression="gzip")
        signed_with = apt_repository.sign(out / "packages", Path(private))
        shutil.copyfile(signed_with, out / "key.asc")
        out.rename(target)


def main() -> int:
    """Make the repository where there is none yet; return the exit status."""
    programs, version = Path(sys.argv[1]), sys.argv[2]
    cache = Path(sys.argv[3] if len(sys.argv) > 3 else "/var/cache/vllmd/kubernetes")
    try:
        packages = contents(programs)
        cache.mkdir(parents=True, exist_ok=True)
        target = cache / f"apt-{key(version, packages)}"
        with (cache / f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another scenario may be making the same
            if not target.is_dir():
                make(target, version, packages)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or ""
        print(f"the repository of Kubernetes' packages was not made: {error} {said}".strip(), file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
