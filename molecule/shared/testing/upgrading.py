"""The next patch release of Kubernetes for the hosts of a scenario, and the playbook that upgrades to it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hosts import of_run
from playing import ROOT, play

EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
SHARED = ROOT / "molecule/shared/kubernetes"
Upgrade = Callable[..., subprocess.CompletedProcess[str]]


def noted(name: str) -> str:
    """What `prepare` noted about the scenario's Kubernetes."""
    return (EPHEMERAL / f"kubernetes.{name}").read_text().strip()


def next_version() -> str:
    """The next patch release."""
    major, minor, patch = noted("version").split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def make(script: str, directory: Path, *arguments: Any) -> Path:
    """Run a script of the scenarios' Kubernetes; return the directory that it names."""
    command = [sys.executable, SHARED / script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip() or directory)


def next_release(directory: Path, names: Sequence[str]) -> Upgrade:
    """Make packages and images of the next patch release, and give the images to the hosts; no registry is in reach.

    Returns a function that runs the playbook with them, with arguments of ansible-playbook and variables.
    """
    version, programs = next_version(), directory / "programs"
    make("next_version.py", directory, noted("programs"), version, programs)
    packages = make("repository.py", directory, programs, version, directory) / "packages"
    images = make("control_plane_images.py", directory, programs, version, noted("tree"), directory)
    for path in images.glob("kube-*.tar"):
        # The hosts see this directory.
        (EPHEMERAL / "images" / f"next-{path.name}").write_bytes(path.read_bytes())
    for name in names:
        of_run(name).check_output(
            "for file in /srv/kubernetes/images/next-*.tar; do ctr --namespace=k8s.io images import $file; done"
        )
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in packages.glob("*.deb")]
    (packages / "SHA256SUMS").write_text("".join(sums))

    def run(*arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        given = {
            "upgrade_version": version,
            "kubernetes_node_packages_dir": str(packages),
            "kubernetes_node_repository": "",
            "runtime_controller_upgrade_ignore_preflight_errors": ["ImagePull"],
        }
        return play("upgrade", *arguments, **{**given, **variables})

    return run


def versions(cluster: Any) -> dict[str, str]:
    """Each node's version of the kubelet."""
    return {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in cluster.nodes().items()}
