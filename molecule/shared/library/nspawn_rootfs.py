#!/usr/bin/python3
"""Keep a Debian root file system for test hosts, built once per set of inputs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

from ansible.module_utils import debian_download
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: nspawn_rootfs
short_description: Keep a Debian root file system for test hosts, built once per set of inputs
description:
  - Builds a directory tree with C(mmdebstrap) below O(cache) and names it after the digest of everything that
    went into it. It is only ever used read-only, as the lower layer of a host's overlay.
  - Mirrors are those of this machine's own apt configuration, with the release exchanged.
options:
  release: {description: Debian release by code name., type: str, required: true}
  packages: {description: Packages to install besides the essential ones., type: list, elements: str, required: true}
  files: {description: Directory whose files are put over the tree., type: path, required: true}
  cache: {description: Directory that holds the trees., type: path, default: /var/cache/vllmd/rootfs}
"""

RETURN = r"""
path: {description: The tree., type: str, returned: always}
seconds: {description: How long the build took; 0 when the tree was there., type: float, returned: always}
"""


RECIPE = 1  # raise when the build below changes in a way that its inputs do not show


def sources(release: str) -> list[str]:
    """One-line apt sources for `release`, from the Debian mirrors this machine uses itself."""
    return [f"deb {uri} {release}{suffix} main" for suffix, uri in debian_download.mirrors()]


def digests(files: Path) -> dict[str, str]:
    """Return the digest of each file below a directory, by its path there."""
    found = sorted(path for path in files.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(files)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def build(partial: Path, release: str, packages: list[str], mirrors: list[str]) -> None:
    """Run mmdebstrap into `partial`; RuntimeError carries its last lines."""
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--format=directory",
        f"--keyring={debian_download.KEYRING}",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        # Every host gets keys of its own; a key in the cache would be shared by all of them.
        "--customize-hook=rm -f $1/etc/ssh/ssh_host_*",
        f"--include={','.join(packages)}",
        release,
        str(partial),
        *mirrors,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = "\n".join(result.stderr.strip().splitlines()[-8:])
        raise RuntimeError(f"mmdebstrap for {release} failed with {result.returncode}:\n{last}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "files": {"type": "path", "required": True},
            "cache": {"type": "path", "default": "/var/cache/vllmd/rootfs"},
        },
        supports_check_mode=True,
    )
    release, cache, files = module.params["release"], Path(module.params["cache"]), Path(module.params["files"])
    packages = sorted(set(module.params["packages"]))
    # The mirror is not an input: the same release from another mirror is the same tree.
    inputs = json.dumps([RECIPE, release, packages, digests(files)]).encode()
    tree = cache / f"{release}-{hashlib.sha256(inputs).hexdigest()[:12]}"
    if tree.is_dir() or module.check_mode:
        module.exit_json(changed=not tree.is_dir(), path=str(tree), seconds=0.0)

    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (cache / f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another scenario may be building the same tree
        if tree.is_dir():
            module.exit_json(changed=False, path=str(tree), seconds=0.0)
        partial = cache / f".{tree.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            build(partial, release, packages, sources(release))
            shutil.copytree(files, partial, dirs_exist_ok=True)
            partial.rename(tree)
        except (OSError, debian_download.DownloadError, RuntimeError, subprocess.CalledProcessError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            module.fail_json(msg=f"test root file system {tree} was not built: {error}")
    module.exit_json(changed=True, path=str(tree), seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
