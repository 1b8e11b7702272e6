#!/usr/bin/python3
"""Keep the disk image that emulated test hosts boot from, made once per root file system and recipe."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from ansible.module_utils import nspawn_bed as bed
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: qemu_image
short_description: Keep the disk image that emulated test hosts boot from
description:
  - Turns a tree of nspawn_rootfs, which has a kernel among its packages, into an image below O(cache), named after the
    digest of the tree's name and of O(recipe). Beside the disk lie its kernel and initial RAM disk, and GRUB in a form
    that boots like a kernel.
  - C(recipe/static) is copied over the tree, then C(recipe/setup) runs in it. Hosts write to overlays only.
options:
  rootfs: {description: Tree made by nspawn_rootfs., type: path, required: true}
  recipe: {description: Directory that says what is different on an emulated host., type: path, required: true}
  cache: {description: Directory that holds the images., type: path, default: /var/cache/vllmd/machines}
"""

RETURN = r"""
path: {description: Directory with system.raw; kernel vmlinuz; initrd; grub., type: str, returned: always}
root_uuid: {description: UUID of the root file system., type: str, returned: always}
seconds: {description: How long it took; 0 when the image was there., type: float, returned: always}
"""

FORMAT = 1  # raise when the build below changes in a way that its inputs do not show
ROOT_UUID = "6d6f6c65-6375-4c65-8d61-6368696e6500"
FREE_MIB = 768  # what a test may write


def digest(rootfs: Path, recipe: Path) -> str:
    """Digest of everything that goes into an image: names, modes and contents of the recipe, the name of the tree."""
    parts: list[object] = [FORMAT, ROOT_UUID, FREE_MIB, rootfs.name]
    for path in sorted(recipe.rglob("*")):
        if path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            parts.append([str(path.relative_to(recipe)), executable, hashlib.sha256(path.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def build(rootfs: Path, recipe: Path, partial: Path) -> None:
    """Make the image in `partial`. BedError."""
    work = {name: partial / name for name in ("upper", "work", "root")}
    for directory in work.values():
        directory.mkdir(parents=True)
    layers = f"lowerdir={rootfs},upperdir={work['upper']},workdir={work['work']}"
    root = work["root"]
    bed.run("mount", "-t", "overlay", "-o", layers, "vllmd-molecule-image", str(root))
    try:
        bed.run("cp", "-rT", "--preserve=mode", str(recipe / "static"), str(root))
        setup = root / "setup"
        setup.mkdir()
        for name in ("setup", "masked-units"):
            shutil.copy(recipe / name, setup / name)
        run_setup(root, f"vllmd-molecule-image-{partial.name.strip('.').partition('.')[0]}")
        for name in ("vmlinuz", "initrd", "grub"):
            shutil.move(setup / name, partial / name)
        shutil.rmtree(setup)
        make_disk(root, partial / "system.raw")
    finally:
        bed.run("umount", str(root))
    for directory in work.values():
        shutil.rmtree(directory)


def run_setup(root: Path, machine: str) -> None:
    """Run the recipe's setup inside the tree. BedError ends with what it said."""
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--resolv-conf=off",
        "--timezone=off",
    ]
    nspawn += ["--link-journal=no", "--console=pipe", "--as-pid2", f"--machine={machine}", f"--directory={root}"]
    command = [*nspawn, "/setup/setup", ROOT_UUID]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    # What systemd-nspawn leaves behind.
    for leftover in ("propagate", "unix-export"):
        shutil.rmtree(Path("/run/systemd/nspawn") / leftover / machine, ignore_errors=True)
    if result.returncode != 0:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-8:])
        raise bed.BedError(f"setup failed with {result.returncode}:\n{said}")


def make_disk(root: Path, disk: Path) -> None:
    """Write the tree into a file system without a journal: its hosts never outlive a power cut."""
    used_kib = int(bed.run("du", "--summarize", "--one-file-system", "--block-size=1K", str(root)).stdout.split()[0])
    with disk.open("wb") as file:
        os.truncate(file.fileno(), (used_kib * 9 // 8 + FREE_MIB * 1024) * 1024)
    options = ("-q", "-F", "-m", "0", "-U", ROOT_UUID, "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=0")
    bed.run("mkfs.ext4", *options, "-d", str(root), str(disk))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "rootfs": {"type": "path", "required": True},
            "recipe": {"type": "path", "required": True},
            "cache": {"type": "path", "default": "/var/cache/vllmd/machines"},
        },
        supports_check_mode=True,
    )
    rootfs, recipe, cache = (Path(module.params[name]) for name in ("rootfs", "recipe", "cache"))
    image = cache / f"{rootfs.name.partition('-')[0]}-{digest(rootfs, recipe)}"
    result = {"path": str(image), "root_uuid": ROOT_UUID, "seconds": 0.0}
    if image.is_dir() or module.check_mode:
        module.exit_json(changed=not image.is_dir(), **result)
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (cache / f"{image.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another scenario may be making the same image
        if image.is_dir():
            module.exit_json(changed=False, **result)
        partial = cache / f".{image.name}.partial"
        try:
            if bed.is_mounted(partial / "root"):  # a build that was killed
                bed.run("umount", str(partial / "root"))
            shutil.rmtree(partial, ignore_errors=True)
            build(rootfs, recipe, partial)
            partial.rename(image)
        except (OSError, bed.BedError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            module.fail_json(msg=f"image {image} for emulated hosts was not made: {error}")
    module.exit_json(changed=True, **{**result, "seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
