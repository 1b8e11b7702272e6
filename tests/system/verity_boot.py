#!/usr/bin/env python3
"""Boot an image that was built with DIB_VLLMD_VERITY=1: untouched it serves, with one byte changed it stops.

    tests/system/verity_boot.py IMAGE_DIRECTORY      a version in the image store; about one minute without KVM

Shows in order: the hash tree is what veritysetup says it is; the engine starts (and after how long); a byte changed in
a program that every boot reads, a root hash that is not the image's, a missing hash tree: each ends the machine before
the engine starts. Exit status 0 when all of that is so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK_BYTES = 4096
STARTED = "vllmd: engine started"
LIMIT_SECONDS = 180
VICTIM = "/usr/lib/systemd/systemd"


def boot(image: Path, system: Path, cmdline: str, directory: Path, name: str) -> tuple[str, float]:
    """Start a guest; return its console and the seconds until its engine starts or it ends."""
    log = directory / f"{name}.log"
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from boot import our_config  # noqa: PLC0415  # a script beside the benchmarks, found by the path above

    config = directory / "our-config.iso"
    if not config.exists():
        our_config(directory)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "roles/hypervisor/files"),
        "VLLMD_HYPERVISOR_NAME": f"verity-{name}",
        "VLLMD_HYPERVISOR_RUN_DIRPATH": str(directory / "run"),
        "VLLMD_HYPERVISOR_KERNEL_FILEPATH": str(image / "kernel"),
        "VLLMD_HYPERVISOR_INITRD_FILEPATH": str(image / "initrd"),
        "VLLMD_HYPERVISOR_SYSTEM_IMAGE_FILEPATH": str(system),
        "VLLMD_HYPERVISOR_SYSTEM_IMAGE_READONLY": "on",
        "VLLMD_HYPERVISOR_CONFIG_IMAGE_FILEPATH": str(config),
        "VLLMD_HYPERVISOR_CMDLINE": f"{cmdline} mitigations=off",
        "VLLMD_HYPERVISOR_CPU_COUNT": "2",
        "VLLMD_HYPERVISOR_MEMORY_CONFIG": "size=4G,shared=on",
        "VLLMD_HYPERVISOR_NETWORK": "mode=user",
        "VLLMD_HYPERVISOR_LOG_FILEPATH": str(log),
    }
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "vllmd_hypervisor", "start"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - started < LIMIT_SECONDS:
            console = log.read_text(errors="replace") if log.exists() else ""
            if STARTED in console or "Kernel panic" in console or process.poll() is not None:
                return console, time.monotonic() - started
            time.sleep(0.05)
        sys.exit(f"{name}: neither an engine nor a panic within {LIMIT_SECONDS} s; see {log}")
    finally:
        process.kill()  # the guest is not needed any more, and its disk is read-only
        process.wait()


def changed(image: Path, directory: Path) -> Path:
    """Return a copy of the system image with one bit turned over in the program `VICTIM`."""
    blocks = subprocess.run(
        ["debugfs", "-R", f"blocks {VICTIM}", image / "system.raw"], check=True, capture_output=True, text=True
    ).stdout.split()
    copy = directory / "changed.raw"
    shutil.copyfile(image / "system.raw", copy)
    with copy.open("r+b") as stream:
        stream.seek(int(blocks[0]) * BLOCK_BYTES + 24)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    return copy


def main() -> int:
    """Run all four; return the exit status."""
    if len(sys.argv) != 2:
        sys.exit("usage: tests/system/verity_boot.py IMAGE_DIRECTORY, a version that was built with DIB_VLLMD_VERITY=1")
    image = Path(sys.argv[1]).resolve()
    cmdline = json.loads((image / "manifest.json").read_text())["cmdline"]
    found = re.search(r"vllmd\.verity=(\d+):([0-9a-f]{64})", cmdline)
    if not found:
        sys.exit(f"{image} has no vllmd.verity= in its command line; build it with DIB_VLLMD_VERITY=1")
    blocks, root_hash = int(found[1]), found[2]
    system = image / "system.raw"
    verify = ["veritysetup", "verify", "--no-superblock", "--hash=sha256", "--salt=-", f"--data-blocks={blocks}"]
    verify += [f"--data-block-size={BLOCK_BYTES}", f"--hash-block-size={BLOCK_BYTES}"]
    subprocess.run([*verify, f"--hash-offset={blocks * BLOCK_BYTES}", system, system, root_hash], check=True)
    print(f"veritysetup verifies {blocks} blocks, {(system.stat().st_size // BLOCK_BYTES) - blocks} blocks of hashes")
    failures = []
    with tempfile.TemporaryDirectory(prefix="vllmd-verity-", dir="/var/tmp") as name:  # gigabytes, on disk
        work = Path(name)
        console, seconds = boot(image, system, cmdline, work, "untouched")
        print(f"untouched: {seconds:.1f} s until {'the engine started' if STARTED in console else 'it ended'}")
        if STARTED not in console:
            failures.append("untouched")
        truncated = work / "truncated.raw"
        shutil.copyfile(system, truncated)
        os.truncate(truncated, blocks * BLOCK_BYTES)
        other = cmdline.replace(root_hash, "0" * 64)
        for what, disk, line in (
            ("changed", changed(image, work), cmdline),
            ("other-hash", system, other),
            ("no-hash-tree", truncated, cmdline),
        ):
            console, seconds = boot(image, disk, line, work, what)
            last = [
                text.strip()
                for text in console.splitlines()
                if "panic" in text or "FAILED" in text or "corrupt" in text
            ]
            print(f"{what}: ended after {seconds:.1f} s: {last[-1] if last else 'without a word'}")
            if STARTED in console:
                failures.append(what)
    print(f"verity: {'FAILED: ' + ', '.join(failures) if failures else 'all four as they should be'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
