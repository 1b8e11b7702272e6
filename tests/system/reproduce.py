#!/usr/bin/env python3
"""Prove that images come out the same every time, and that a change rebuilds only what is above it.

Usage: tests/system/reproduce.py [--work DIR] [--cache DIR] [--slot COMMAND] [--only STEP ...]

Real builds through playbooks/generate.yml, each into a store of its own below DIR:

  cold      from nothing: no layer is there
  layers    the same inputs from the topmost layer of `cold`: must be identical, byte for byte
  runtime   one file of element vllmd-runtime changed: another manifest, from the layer `engine`, under 40 % of `cold`
  engine    one script of element vllmd-vllm changed: another manifest, from the layer below
  again     from nothing, in another build directory, keeping no layers: must be identical, byte for byte
  lock      a lock file made, from nothing: the same system image, kernel and initrd as `cold`
  locked    by that lock file, from nothing and with no mirror: must be identical to `lock`, byte for byte

Downloads (wheels, models, packages) are those of --cache; its layers are not used. Needs root and about 12 GB.
Writes DIR/reproduce.json and exits with 1 when something is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = ("cold", "layers", "runtime", "engine", "again", "lock", "locked")
MOST_OF_COLD = 0.40
IMAGE_FILES = ("system.raw", "kernel", "initrd")
FILES = (*IMAGE_FILES, "manifest.json", "sbom.cdx.json")
#: Nothing answers there (port 9, discard), so a build that gets by with it needs no mirror.
NOWHERE = "http://127.0.0.1:9/debian"


class Failed(Exception):
    """A build failed, or came out otherwise than it must; one line."""


class Builds:
    """Builds below one work directory; ``results`` holds what is known of each step."""

    def __init__(self, work: Path, downloads: Path, slot: list[str]) -> None:
        self.work, self.downloads, self.slot = work, downloads, slot
        self.results: dict[str, dict[str, Any]] = {}

    def cache(self) -> Path:
        """Return a cache directory that shares downloads with others, and layers with no one."""
        cache = self.work / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("wheels", "models", "dib"):
            (self.downloads / name).mkdir(parents=True, exist_ok=True)
            if not (cache / name).is_symlink():
                (cache / name).symlink_to(self.downloads / name)
        return cache

    def build(self, step: str, **variables: Any) -> Path:
        """Build into the store of ``step``; return the version's directory. Raises Failed."""
        store, log = self.work / step / "images", self.work / step / "log"
        shutil.rmtree(self.work / step, ignore_errors=True)
        settings = {
            "runtime_assembler_store_dir": str(store),
            "runtime_assembler_build_dir": str(self.work / step / "build"),
            "runtime_assembler_log_dir": str(log),
            "runtime_assembler_cache_dir": str(self.cache()),
            "runtime_assembler_layers_max_mib": 16384,
            **variables,
        }
        command = [*self.slot, "ansible-playbook", "-i", "inventories/local", "playbooks/generate.yml"]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "-e", json.dumps(settings)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = [line.strip() for line in done.stdout.splitlines() if line.lstrip().startswith("FAILED")]
            raise Failed(f"{step}: {said[-1] if said else done.stdout[-600:] + done.stderr[-600:]}")
        name = variables.get("runtime_assembler_image_name", "vllmd-cpu")
        version = (store / name / "latest").resolve()
        how = json.loads((version / "build.json").read_text())
        self.results[step] = {
            "version": version.name,
            "seconds": how["seconds"],
            "playbook_seconds": round(time.monotonic() - started),
            "reused": [layer["name"] for layer in how["layers"] if layer["reused"]],
            "layers": how["layers"],
        }
        print(f"{step}: {version.name} in {how['seconds']} s, reused: {self.results[step]['reused']}", flush=True)
        return version

    def changed_element(self, step: str, element: str, path: str) -> str:
        """Return a directory with a copy of ``element`` in which the file ``path`` has one more line."""
        copy = self.work / f"elements-{step}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT / "image-elements" / element, copy / element)
        with (copy / element / path).open("a") as stream:
            stream.write("\n# a changed line\n")
        return str(copy)


def must_be_identical(one: Path, two: Path, names: tuple[str, ...] = FILES) -> None:
    """Raise Failed unless the two versions have the same bytes; say where they differ."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/compare-images"), str(one), str(two)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise Failed(f"{one} and {two} are not identical {done.stderr}")
    for name in names:
        if (one / name).read_bytes() != (two / name).read_bytes():
            raise Failed(f"{one / name} and {two / name} differ")


def must_reuse(builds: Builds, step: str, layer: str) -> None:
    """Raise Failed unless ``layer`` is the topmost one that ``step`` reused and it built something else than cold."""
    reused = builds.results[step]["reused"]
    if not reused or reused[-1] != layer:
        raise Failed(f"{step}: reused {reused or 'nothing'}, expected everything up to {layer}")
    if builds.results[step]["version"] == builds.results["cold"]["version"]:
        raise Failed(f"{step}: the version is the same, though an input changed")


def prove(builds: Builds, only: list[str]) -> None:
    """Run the steps and judge them. Raises Failed."""
    if "cold" in only:
        shutil.rmtree(builds.work / "cache/layers", ignore_errors=True)
        builds.build("cold")
    cold = (builds.work / "cold/images/vllmd-cpu/latest").resolve()
    if "cold" not in only:
        how = json.loads((cold / "build.json").read_text())
        builds.results["cold"] = {"version": cold.name, "seconds": how["seconds"], "reused": []}
    if "layers" in only:
        must_be_identical(cold, builds.build("layers"))
        if builds.results["layers"]["reused"][-1:] != ["engine"]:
            raise Failed(f"layers: reused {builds.results['layers']['reused']}, expected everything up to engine")
    if "runtime" in only:
        elements = builds.changed_element("runtime", "vllmd-runtime", "static/usr/lib/vllmd/healthy.py")
        builds.build("runtime", runtime_assembler_elements_path=[elements])
        must_reuse(builds, "runtime", "engine")
        share = builds.results["runtime"]["seconds"] / builds.results["cold"]["seconds"]
        builds.results["runtime"]["share_of_cold"] = round(share, 2)
        print(f"runtime: {share:.0%} of the cold build", flush=True)
        if share >= MOST_OF_COLD:
            raise Failed(f"runtime: {share:.0%} of the cold build, expected under {MOST_OF_COLD:.0%}")
    # Before what keeps no layers, and so removes those that are there.
    if "engine" in only:
        elements = builds.changed_element("engine", "vllmd-vllm", "install.d/60-vllmd-vllm")
        builds.build("engine", runtime_assembler_elements_path=[elements])
        must_reuse(builds, "engine", "node" if builds.results["engine"]["reused"][-1:] == ["node"] else "debian")
    if "again" in only:
        must_be_identical(cold, builds.build("again", runtime_assembler_layers_max_mib=0))
    path = str(builds.work / "image.lock")
    if "lock" in only:
        made = builds.build("lock", runtime_assembler_lock_file=path, runtime_assembler_lock_update=True)
        must_be_identical(cold, made, IMAGE_FILES)
    if "locked" in only:
        made = (builds.work / "lock/images/vllmd-cpu/latest").resolve()
        nowhere = {"runtime_assembler_mirror": NOWHERE, "runtime_assembler_security_mirror": NOWHERE}
        settings = {"runtime_assembler_lock_file": path, "runtime_assembler_layers_max_mib": 0, **nowhere}
        must_be_identical(made, builds.build("locked", **settings))


def main() -> int:
    """Prove what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/vllmd-reproduce"), help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path("/var/cache/vllmd"), help="default: %(default)s")
    parser.add_argument("--slot", default="", help="command that each build is run with, such as a wait for its turn")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="default: all")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("reproduce: images are built as root", file=sys.stderr)
        return 2
    builds = Builds(options.work.resolve(), options.cache.resolve(), shlex.split(options.slot))
    status = 0
    try:
        prove(builds, options.only)
    except Failed as error:
        print(f"reproduce: {error}", file=sys.stderr)
        status = 1
    (options.work / "reproduce.json").write_text(json.dumps(builds.results, indent=1) + "\n")
    print(f"reproduce: {', '.join(builds.results)}: {'as they must be' if status == 0 else 'FAILED'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
