#!/usr/bin/env python3
"""Tamper with a real image and with real builds, and show that each time it is refused or recovered.

Usage: tests/system/tamper.py --image DIR --cache DIR [--work DIR] [--seed N] [--only PART ...]

  bytes     one byte of system image, kernel, initrd, bill, manifest and signature flipped; a truncated file
  places    the manifests (with signatures) of two versions swapped
  keys      an expired key, one whose time has not begun, an unknown one, no signature
  disk      the disk is full while the image is written to the store
  two       two builds of one image at once: the second names the first, or waits for it and finds the work done
  kill      kill -9 at ten random moments of a build; then it is built

--image is a published version of vllmd-cpu; --cache holds its downloads and layers, so that builds are short: one file
above the layers is changed. Needs root, and space for three images in DIR. Writes DIR/tamper.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "collection")]

from ansible_collections.vllmd.platform.plugins.module_utils import (  # noqa: E402 -- needs the path above
    image_inputs,
    image_manifest,
    signing_keys,
)
from tests.support import modules  # noqa: E402

NAME = "vllmd-cpu"
ELEMENTS = ["vllmd-debian", "vllmd-containerd", "vllmd-vllm", "vllmd-model", "vllmd-runtime"]
FLIPS = {"system.raw": 2, "kernel": 3, "initrd": 3, "sbom.cdx.json": 5, "manifest.json": 20, "manifest.sig": 20}
KILLS = 10


class Failed(Exception):
    """Something was accepted that must not be, or did not recover; one line."""


class Bed:
    """A store of two signed versions, keys, and the arguments of a build."""

    def __init__(self, image: Path, cache: Path, work: Path, seed: int) -> None:
        self.image, self.cache, self.work = image, cache, work
        self.store, self.build_dir = work / "store", work / "build"
        self.chance = random.Random(seed)  # noqa: S311 -- places and moments, not secrets
        self.done: list[str] = []
        self.figures: dict[str, Any] = {}
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.keys = {name: self._key(name) for name in ("mine", "other")}
        self.first = self._publish({})
        self.second = self._publish({"setting serial": "2"})

    def _key(self, name: str) -> Path:
        path = self.work / f"{name}.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
        path.chmod(0o600)
        public = subprocess.run(["openssl", "pkey", "-in", str(path), "-pubout"], check=True, capture_output=True)
        path.with_suffix(".pub").write_bytes(public.stdout)
        return path

    def _publish(self, more: dict[str, str]) -> Path:
        """Copy the image into the store, signed, as the version that it is with ``more`` inputs."""
        manifest = json.loads((self.image / "manifest.json").read_text())
        manifest["inputs"].update(more)
        manifest["inputs_digest"] = image_inputs.inputs_digest(manifest["inputs"])
        manifest["version"] = image_inputs.version_of(manifest["inputs_digest"])
        target = self.store / NAME / manifest["version"]
        shutil.copytree(self.image, target)
        content = image_manifest.dump(manifest)
        (target / "manifest.json").unlink()
        (target / "manifest.json").write_bytes(content)
        signature = signing_keys.load_signing_key(self.keys["mine"]).sign(content)
        (target / "manifest.sig").write_bytes(signature)
        latest = self.store / NAME / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(target.name)
        return target

    def public(self, name: str = "mine", **times: str) -> dict[str, str]:
        """Return an entry of trusted_keys."""
        return {"key": str(self.keys[name].with_suffix(".pub")), **times}

    def verify(self, version: Path, *trusted: dict[str, str]) -> dict[str, Any]:
        """Run image_verify on a version of the store."""
        arguments = {"name": NAME, "version": version.name, "store_dir": str(version.parent.parent)}
        return modules.run("image_verify", {**arguments, "trusted_keys": list(trusted or [self.public()])}, self.work)

    def must_refuse(self, what: str, version: Path, *trusted: dict[str, str], words: str = "") -> None:
        """Raise Failed unless the version is refused, in one line that has ``words``."""
        result = self.verify(version, *trusted)
        if not result.get("failed"):
            raise Failed(f"accepted: {what}")
        if words not in result["msg"]:
            raise Failed(f"{what}: refused in other words: {result['msg']}")
        self.done.append(what)
        print(f"refused: {what}: {result['msg'][:150]}", flush=True)

    def must_accept(self, version: Path) -> None:
        """Raise Failed unless the version is good."""
        result = self.verify(version)
        if result.get("failed"):
            raise Failed(f"the store is not intact: {result['msg']}")

    def arguments(self, line: str) -> dict[str, Any]:
        """Return the arguments of image_build for an image that differs by ``line`` in a file above the layers."""
        elements = self.work / "elements"
        shutil.rmtree(elements, ignore_errors=True)
        shutil.copytree(ROOT / "image-elements/vllmd-runtime", elements / "vllmd-runtime")
        with (elements / "vllmd-runtime/static/usr/lib/vllmd/healthy.py").open("a") as stream:
            stream.write(f"# {line}\n")
        models = sorted(path for path in (self.cache / "models/smollm2-135m-instruct").iterdir() if path.is_dir())
        return {
            "name": NAME,
            "elements": ELEMENTS,
            "elements_path": [str(elements), str(ROOT / "image-elements")],
            "models": [{"name": "smollm2-135m-instruct", "path": str(models[0])}],
            "wheelhouse": str(wheelhouse(self.cache)),
            "cache_dir": str(self.cache),
            "store_dir": str(self.store),
            "build_dir": str(self.build_dir),
            "log_path": str(self.work / "build.log"),
            "signing_key": str(self.keys["mine"]),
            "keep": 10,
        }

    def start(self, arguments: dict[str, Any], name: str = "") -> subprocess.Popen[str]:
        """Start image_build."""
        directory = self.work / f"module{name}"
        directory.mkdir(exist_ok=True)
        command, environment = modules.command("image_build", arguments, directory)
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for a build; return its result. Raises Failed for a traceback."""
        output, errors = process.communicate(timeout=900)
        if "Traceback" in output + errors:
            raise Failed(f"a traceback: {errors[-300:]}")
        result: dict[str, Any] = json.loads(output)
        return result

    def must_be_clean(self) -> None:
        """Raise Failed when something of a build is left: a mount, a loop device, a process."""
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.build_dir) in line]
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        loops = [path for path in backing if str(self.work) in path.read_text()]
        if mounts or loops:
            raise Failed(f"left behind: {mounts} {loops}")


def wheelhouse(cache: Path) -> Path:
    """Return the wheelhouse of the profile's lock. Raises Failed."""
    lock = ROOT / "image-elements/vllmd-vllm/requirements/cpu.txt"
    path = cache / "wheels" / hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    if not path.is_dir():
        raise Failed(f"{path} is not there; build the image once with this cache")
    return path


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Give a small file other content while the block runs."""
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def flipped(path: Path, offset: int, bit: int) -> Iterator[None]:
    """Flip one bit of a file in place while the block runs."""
    path.chmod(0o644)

    def flip() -> None:
        with path.open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ 1 << bit]))

    flip()
    try:
        yield
    finally:
        flip()


def tamper_bytes(bed: Bed) -> None:
    """Flip bytes, truncate."""
    bed.must_accept(bed.first)
    for name, times in FLIPS.items():
        path = bed.first / name
        size = path.stat().st_size
        for _time in range(times):
            offset, bit = bed.chance.randrange(size), bed.chance.randrange(8)
            with flipped(path, offset, bit):
                bed.must_refuse(f"bit {bit} of byte {offset} of {name} flipped", bed.first)
    for name in ("kernel", "initrd", "manifest.json", "manifest.sig"):
        with changed(bed.first / name, lambda content: content[:-1]):
            bed.must_refuse(f"{name} truncated by a byte", bed.first)
    system = bed.first / "system.raw"
    size = system.stat().st_size
    with system.open("rb") as stream:
        stream.seek(size - 4096)
        end = stream.read()
    os.truncate(system, size - 4096)
    bed.must_refuse("system.raw truncated by a block", bed.first)
    with system.open("ab") as stream:
        stream.write(end)
    bed.must_accept(bed.first)


def tamper_places(bed: Bed) -> None:
    """Swap manifests and signatures of two versions."""
    names = ("manifest.json", "manifest.sig")
    one, two = ({name: (version / name).read_bytes() for name in names} for version in (bed.first, bed.second))
    with (
        changed(bed.first / names[0], lambda _old: two[names[0]]),
        changed(bed.first / names[1], lambda _old: two[names[1]]),
    ):
        bed.must_refuse("the manifest and signature of another version", bed.first, words="belongs")
    with changed(bed.second / names[0], lambda _old: one[names[0]]):
        bed.must_refuse("the manifest of another version under its own signature", bed.second, words="does not fit")
    bed.must_accept(bed.first)
    bed.must_accept(bed.second)


def tamper_keys(bed: Bed) -> None:
    """Trust a key that is expired, not yet valid, or another one; take the signature away."""
    now = datetime.now(UTC)
    past, future = ((now + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (-1, 1))
    bed.must_refuse("an expired key", bed.first, bed.public(not_after=past), words="whose time ended on")
    bed.must_refuse("a key of tomorrow", bed.first, bed.public(not_before=future), words="whose time begins on")
    bed.must_refuse("an unknown key", bed.first, bed.public("other"), words="is not trusted")
    signature = bed.first / "manifest.sig"
    signature.rename(bed.work / "away")
    bed.must_refuse("no signature", bed.first, words="is not signed")
    (bed.work / "away").rename(signature)
    bed.must_accept(bed.first)


def tamper_disk(bed: Bed) -> None:
    """Publish into a store whose disk is too small for the image."""
    small = bed.work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(small)], check=True)
    try:
        arguments = {**bed.arguments("disk"), "store_dir": str(small), "min_free_mib": 1}
        result = bed.finish(bed.start(arguments))
        if not result.get("failed") or "space" not in result["msg"]:
            raise Failed(f"a full disk: {result.get('msg', 'published')}")
        print(f"refused: a full disk: {result['msg'][:200]}", flush=True)
        left = [str(path) for path in small.rglob("*") if path.suffix != ".lock"]
        if left:
            raise Failed(f"a full disk left {left}")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    bed.must_be_clean()
    bed.done.append("the disk full while the image is written to the store")


def tamper_two(bed: Bed) -> None:
    """Start two builds of one image: one that does not wait, and one that does."""
    arguments = bed.arguments("two")
    first = bed.start(arguments, "1")
    while not (bed.build_dir / NAME).exists() and first.poll() is None:
        time.sleep(0.05)
    refused = bed.finish(bed.start(arguments, "2"))
    if "is in use by process" not in refused.get("msg", ""):
        raise Failed(f"a second build at once: {refused.get('msg', 'built')}")
    print(f"refused: a second build at once: {refused['msg'][:150]}", flush=True)
    waiting = bed.start({**arguments, "lock_timeout": 600}, "3")
    built, waited = bed.finish(first), bed.finish(waiting)
    if built.get("failed") or waited.get("changed", True) or "another process built it" not in waited["reason"]:
        raise Failed(f"two builds at once: {built.get('msg')} {waited.get('msg', waited.get('reason'))}")
    bed.must_be_clean()
    bed.must_accept(bed.store / NAME / built["version"])
    bed.done += ["a second build at once refused", "a second build that waits finds the work done"]
    bed.figures["build_seconds"] = built["duration_seconds"]


def tamper_kill(bed: Bed) -> None:
    """Kill a build at random moments of its length: the store is intact each time, and the last one builds."""
    arguments = bed.arguments("kill")
    length = bed.figures.get("build_seconds", 40)
    before = (bed.store / NAME / "latest").readlink().name
    moments = []
    for number in range(KILLS):
        process = bed.start(arguments, f"kill{number}")
        moment = bed.chance.uniform(0.5, length * 0.95)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            raise Failed(f"the build ended before it was killed at {moment:.0f} s")
        deadline = time.monotonic() + 10
        while _lives(bed) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _lives(bed):
            raise Failed(f"killed at {moment:.0f} s: a process of the build lives on")
        bed.must_be_clean()
        latest = (bed.store / NAME / "latest").readlink().name
        if latest != before:
            raise Failed(f"killed at {moment:.0f} s: latest moved to {latest}")
        moments.append(round(moment, 1))
        print(f"recovered: killed at {moment:.1f} s of {length:.0f}, latest is {latest}", flush=True)
    bed.must_accept(bed.store / NAME / before)
    result = bed.finish(bed.start(arguments))
    if result.get("failed") or not result["changed"]:
        raise Failed(f"after the kills: {result.get('msg', 'nothing was built')}")
    bed.must_be_clean()
    left = [path.name for path in (bed.store / NAME).iterdir() if path.name.startswith(".")]
    if left or (bed.build_dir / NAME).exists():
        raise Failed(f"after the kills the next build left {left}")
    bed.must_accept(bed.store / NAME / result["version"])
    bed.figures["kill"] = {"moments_seconds": moments, "cleaned": result["cleaned"]}
    bed.done.append(f"kill -9 at {KILLS} moments: {moments} s of {length:.0f}")


def _lives(bed: Bed) -> bool:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMP_DIR={bed.build_dir}" in path.read_text(errors="replace"):
                return True
        except OSError:
            continue
    return False


PARTS: dict[str, Callable[[Bed], None]] = {
    "bytes": tamper_bytes,
    "places": tamper_places,
    "keys": tamper_keys,
    "disk": tamper_disk,
    "two": tamper_two,
    "kill": tamper_kill,
}


def main() -> int:
    """Run the parts that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, required=True, help="directory of a published version")
    parser.add_argument("--cache", type=Path, required=True, help="its cache of downloads and layers")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/vllmd-tamper"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("tamper: images are built as root", file=sys.stderr)
        return 2
    bed = Bed(options.image.resolve(), options.cache.resolve(), options.work.resolve(), options.seed)
    status = 0
    try:
        for part in options.only:
            PARTS[part](bed)
    except Failed as error:
        print(f"tamper: {error}", file=sys.stderr)
        status = 1
    (options.work / "tamper.json").write_text(json.dumps({"done": bed.done, **bed.figures}, indent=1) + "\n")
    print(f"tamper: {len(bed.done)} cases refused or recovered{'' if status == 0 else ', then FAILED'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
