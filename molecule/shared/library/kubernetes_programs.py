#!/usr/bin/python3
"""Keep Kubernetes' programs for test hosts, built once from Debian's source package, or an operator's own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from ansible.module_utils import debian_download
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: kubernetes_programs
short_description: Keep Kubernetes' programs for test hosts
description:
  - Builds kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubeadm, kubectl, kubelet and a small
    crictl from Debian's source package with Debian's Go compiler, below O(cache), in a directory named after the digest
    of everything that went into them. It is published by rename.
  - With O(directory), what lies there is used instead, for example a newer release.
options:
  directory: {description: Directory with the programs to use instead of building them., type: path}
  release: {description: Debian release by code name., type: str, default: bookworm}
  source: {description: Version of the source package kubernetes., type: str}
  packages: {description: Version of each package that the build needs., type: dict}
  recipe: {description: Directory with the build script and the source of crictl., type: path}
  cache: {description: Directory that holds what was built., type: path, default: /var/cache/vllmd/kubernetes}
"""

RETURN = r"""
path: {description: Directory of the programs., type: str, returned: always}
version: {description: Their version; empty while they are still to be built., type: str, returned: always}
seconds: {description: How long the build took; 0 when they were there., type: float, returned: always}
"""

PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubeadm",
    "kubectl",
    "kubelet",
    "crictl",
)
VERSION = re.compile(r"v(\d+\.\d+\.\d+)\S*")


class ProgramsError(Exception):
    """One line for a person: which programs are not to be had, why, and what to do."""


def key(params: dict) -> str:
    """Digest of everything that goes into a build."""
    recipe = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(params["recipe"]).iterdir()}
    inputs = [params["release"], params["source"], params["packages"], recipe, PROGRAMS, os.uname().machine]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def version_of(directory: Path) -> str:
    """The one version that the programs in `directory` say they have. Raises ProgramsError."""
    missing = [name for name in PROGRAMS if not os.access(directory / name, os.X_OK)]
    if missing:
        raise ProgramsError(f"{directory} has no {', '.join(missing)}; put them there as programs, or leave it unset")
    said = {}
    for name, arguments in {"kubelet": ["--version"], "kubeadm": ["version", "--output=short"]}.items():
        result = subprocess.run([directory / name, *arguments], capture_output=True, text=True, check=False)
        match = VERSION.search(result.stdout)
        if match is None:
            raise ProgramsError(f"{directory / name} says no version: {(result.stdout + result.stderr)[:200]!r}")
        said[name] = match[1]
    if len(set(said.values())) > 1:
        raise ProgramsError(f"{directory} holds versions {' and '.join(said.values())}; take those of one release")
    return said["kubelet"]


def build(params: dict, work: Path, out: Path) -> None:
    """Fetch what is pinned and build it in `work`, into `out`. Raises ProgramsError and DownloadError."""
    archive = debian_download.Archive(params["release"], work / "apt")
    archive.packages(params["packages"], work / "tree")
    archive.source("kubernetes", params["source"], work / "source")
    log = work / "log"
    command = [Path(params["recipe"]) / "build", work / "source", work / "tree", out]
    with log.open("wb") as output:
        # A group of its own: whatever ends this module ends the compilers, too.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status != 0:
        last = " / ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:])
        raise ProgramsError(f"building Kubernetes failed with {status}: {last}")


def publish(params: dict, target: Path) -> float:
    """Build into a directory beside `target` and rename it; seconds it took. Leaves nothing when it fails."""
    started = time.monotonic()
    cache = target.parent
    for leftover in cache.glob(f".{target.name}.*"):  # of a build that was killed; the lock is ours
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=cache) as name:
        work = Path(name)
        out = work / "programs"
        build(params, work, out)
        version_of(out)
        for program in out.iterdir():
            descriptor = os.open(program, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        out.rename(target)
    return round(time.monotonic() - started, 1)


def stop(number: int, _frame: object) -> None:
    """End like an exception, so that what was begun is removed."""
    raise SystemExit(128 + number)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "release": {"type": "str", "default": "bookworm"},
            "source": {"type": "str"},
            "packages": {"type": "dict"},
            "recipe": {"type": "path"},
            "cache": {"type": "path", "default": "/var/cache/vllmd/kubernetes"},
        },
        required_one_of=[("directory", "source")],
        required_by={"source": ["packages", "recipe"]},
        supports_check_mode=True,
    )
    params = module.params
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        if params["directory"]:
            directory = Path(params["directory"])
            module.exit_json(changed=False, path=str(directory), version=version_of(directory), seconds=0.0)
        target = Path(params["cache"]) / key(params)
        if module.check_mode and not target.is_dir():
            module.exit_json(changed=True, path=str(target), version="", seconds=0.0)
        target.parent.mkdir(parents=True, exist_ok=True)
        built, seconds = False, 0.0
        if not target.is_dir():
            with (target.parent / f"{target.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another scenario may be building the same
                if not target.is_dir():
                    built, seconds = True, publish(params, target)
        module.exit_json(changed=built, path=str(target), version=version_of(target), seconds=seconds)
    except (OSError, ProgramsError, debian_download.DownloadError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=f"Kubernetes' programs are not there: {error}")


if __name__ == "__main__":
    main()
