#!/usr/bin/env python3
"""Measure our guest image beside a stock cloud image: boot, size, build time. Everything side by side, in one run.

Boot is the time from the launcher's start until the engine's process is started, under the same launcher, with the same
virtual machine. "Stock" is diskimage-builder's debian-minimal of the same Debian release with cloud-init, its own
initramfs and its own kernel command line; cloud-init starts a unit in the engine's place. "Ours" is the image that
`make image` published, with its own config image. The runs take turns, so that a busy machine slows both.

    benchmarks/boot.py [--runs 3] [--build]      --build also builds our image with empty and with warm caches

Writes build/benchmarks/boot.json and boot.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collection"))

from ansible_collections.vllmd.platform.plugins.module_utils import (  # noqa: E402  # found by the path above
    apt_sources,
    config_iso,
    guest_config,
    manifests,
)

CACHE = Path("/var/cache/vllmd/benchmarks")
IMAGE = Path("/var/lib/vllmd/images/vllmd-cpu/latest")
MARKER = "vllmd: engine started"
BOOT_LIMIT_SECONDS = 900
STOCK_CMDLINE = "root=/dev/vda rw console=ttyS0,115200 no_timer_check nofb nomodeset gfxpayload=text"
STOCK_USER_DATA = f"""#cloud-config
write_files:
  - path: /etc/systemd/system/vllm.service
    content: |
      [Service]
      StandardOutput=tty
      TTYPath=/dev/ttyS0
      ExecStartPre=/bin/echo "{MARKER}"
      ExecStart=/bin/sleep infinity
runcmd:
  - systemctl start vllm.service
"""


@dataclass(frozen=True)
class Guest:
    """What the launcher is told of one image; paths, and the kernel command line."""

    name: str
    kernel: Path
    initrd: Path
    system: Path
    config: Path
    cmdline: str
    readonly: bool


def run(*command: str | Path, env: dict[str, str] | None = None, log: Path | None = None) -> float:
    """Run a command, exit with its last lines when it fails, return how many seconds it took."""
    started = time.monotonic()
    with log.open("ab") if log else open(os.devnull, "wb") as output:  # noqa: PTH123  # a device, not a path of ours
        done = subprocess.run(
            command, env={**os.environ, **(env or {})}, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log else ""
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}; {log or ''}\n{tail}")
    return time.monotonic() - started


def mirrors(release: str) -> dict[str, str]:
    """Return diskimage-builder's mirror variables, as the host's own apt configuration has them."""
    found = apt_sources.mirrors(apt_sources.read_sources(), release)
    names = {"DIB_DISTRIBUTION_MIRROR": found.debian, "DIB_DEBIAN_SECURITY_MIRROR": found.security}
    return {name: mirror for name, mirror in names.items() if mirror}


def stock_image(work: Path, release: str) -> tuple[Path, float | None]:
    """Build the stock image once and keep it; return its directory and the seconds it took (None: from the cache)."""
    target = CACHE / f"stock-{release}"
    facts = target / "facts.json"
    if facts.exists():
        return target, json.loads(facts.read_text())["build_seconds"]
    shutil.rmtree(target, ignore_errors=True)
    partial = work / "stock"
    partial.mkdir(parents=True)
    seconds = run(
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("disk-image-create", "-a", "amd64", "-t", "raw", "-o", partial / "system"),
        *("debian-minimal", "cloud-init", "cloud-init-datasources"),
        env={
            **mirrors(release),
            "DIB_RELEASE": release,
            "DIB_CLOUD_INIT_DATASOURCES": "NoCloud",
            "DIB_IMAGE_CACHE": str(work / "dib-cache"),
            "DIB_NO_TMPFS": "1",
            "TMP_DIR": str(work),
        },
        log=work.parent / "stock-build.log",
    )
    for link, name in (("/vmlinuz", "kernel"), ("/initrd.img", "initrd")):  # Debian's links to the newest of each
        read_from_ext4(partial / "system.raw", link, partial / name)
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copytree(partial, target)
    facts.write_text(json.dumps({"build_seconds": round(seconds, 1)}))
    return target, seconds


def read_from_ext4(image: Path, link: str, target: Path) -> None:
    """Copy the file that a symbolic link in the image's root names to ``target``, without mounting the image."""
    stat = subprocess.run(["debugfs", "-R", f"stat {link}", image], check=True, capture_output=True, text=True).stdout
    destination = stat.split('Fast link dest: "')[1].split('"')[0]
    run("debugfs", "-R", f"dump /{destination.lstrip('/')} {target}", image)


def stock_config(directory: Path) -> Path:
    """Write cloud-init's NoCloud disk; return its path."""
    files = directory / "stock-config"
    files.mkdir()
    (files / "meta-data").write_text("instance-id: boot-benchmark\nlocal-hostname: stock\n")
    (files / "user-data").write_text(STOCK_USER_DATA)
    image = directory / "stock-config.iso"
    run("xorriso", "-as", "genisoimage", "-quiet", "-V", "CIDATA", "-J", "-r", "-o", image, files)
    return image


def our_config(directory: Path, operator_key: str | None = None) -> Path:
    """Write our guest's config image as the playbooks do, ssh open to the key's owner; return its path."""
    runtime = manifests.read_runtimes([ROOT / "inventories/local/runtime.yaml"])[0]
    guest = guest_config.runtime_json(runtime, [operator_key] if operator_key else [])
    image = directory / "our-config.iso"
    image.write_bytes(config_iso.make(guest_config.config_files(guest), directory))
    return image


def our_guest(config: Path) -> Guest:
    """Return what the launcher is told of our published image."""
    cmdline = json.loads((IMAGE / "manifest.json").read_text())["cmdline"]
    files = (IMAGE / "kernel", IMAGE / "initrd", IMAGE / "system.raw")
    return Guest("ours", *files, config, f"{cmdline} mitigations=off", readonly=True)


@contextmanager
def booted(guest: Guest, directory: Path, number: int, network: str = "mode=user") -> Iterator[float]:
    """Start the guest, yield the seconds until its engine's process starts, and end it."""
    log = directory / f"{guest.name}-{number}.log"
    system = guest.system
    if not guest.readonly:  # every first boot is a first boot
        system = directory / "system.raw"
        run("cp", "--sparse=always", guest.system, system)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "roles/hypervisor/files"),
        "VLLMD_HYPERVISOR_NAME": f"boot-{guest.name}",
        "VLLMD_HYPERVISOR_RUN_DIRPATH": str(directory / "run"),
        "VLLMD_HYPERVISOR_KERNEL_FILEPATH": str(guest.kernel),
        "VLLMD_HYPERVISOR_INITRD_FILEPATH": str(guest.initrd),
        "VLLMD_HYPERVISOR_SYSTEM_IMAGE_FILEPATH": str(system),
        "VLLMD_HYPERVISOR_SYSTEM_IMAGE_READONLY": "on" if guest.readonly else "off",
        "VLLMD_HYPERVISOR_CONFIG_IMAGE_FILEPATH": str(guest.config),
        "VLLMD_HYPERVISOR_CMDLINE": guest.cmdline,
        "VLLMD_HYPERVISOR_CPU_COUNT": "2",
        "VLLMD_HYPERVISOR_MEMORY_CONFIG": "size=4G,shared=on",
        "VLLMD_HYPERVISOR_NETWORK": network,
        "VLLMD_HYPERVISOR_LOG_FILEPATH": str(log),
    }
    launcher = [sys.executable, "-m", "vllmd_hypervisor"]
    started = time.monotonic()
    process = subprocess.Popen([*launcher, "start"], env=environment, stdin=subprocess.DEVNULL)
    try:
        while not (log.exists() and MARKER in log.read_text(errors="replace")):
            if process.poll() is not None:
                sys.exit(f"{guest.name}: the virtual machine ended before its engine started; see {log}")
            if time.monotonic() - started > BOOT_LIMIT_SECONDS:
                sys.exit(f"{guest.name}: no engine after {BOOT_LIMIT_SECONDS} s; see {log}")
            time.sleep(0.05)
        yield time.monotonic() - started
    finally:
        process.kill()  # the guest is not needed any more, and its image is a copy or read-only
        process.wait()


def sizes(path: Path) -> dict[str, int]:
    """Return bytes of the system image on disk, of kernel and of initrd."""
    return {
        "system_bytes_on_disk": (path / "system.raw").stat().st_blocks * 512,
        "kernel_bytes": (path / "kernel").stat().st_size,
        "initrd_bytes": (path / "initrd").stat().st_size,
    }


def our_builds(work: Path) -> dict[str, float]:
    """Build our image with empty caches, with full ones, and with unchanged inputs; return seconds of each."""
    results: dict[str, float] = {}
    play: list[str | Path] = [Path(sys.executable).with_name("ansible-playbook"), "-i", ROOT / "inventories/local"]
    where = {
        "runtime_assembler_cache_dir": str(work / "cache"),
        "runtime_assembler_store_dir": str(work / "store"),
        "runtime_assembler_build_dir": str(work / "build"),
    }
    for name in ("cold", "warm", "unchanged"):
        if name == "warm":
            shutil.rmtree(work / "store")
        log = work.parent / f"build-{name}.log"
        results[name] = run(*play, ROOT / "playbooks/generate.yml", "-e", json.dumps(where), log=log)
        print(f"our build, {name}: {results[name]:.0f} s", flush=True)
    return results


def report(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    boots, size, build = results["boot_seconds"], results["size"], results["build_seconds"]
    ours, stock = statistics.median(boots["ours"]), statistics.median(boots["stock"])
    rows = [
        ("launcher start to engine process, median s", f"{ours:.1f}", f"{stock:.1f}", f"{ours / stock:.2f}"),
        *(
            (f"{key.replace('_', ' ')}, MiB", f"{mine / 2**20:.1f}", f"{its / 2**20:.1f}", f"{mine / its:.2f}")
            for key, mine, its in ((key, size["ours"][key], size["stock"][key]) for key in size["ours"])
        ),
        *((f"build {key}, s", f"{value:.0f}", "", "") for key, value in build["ours"].items()),
        ("build of the stock image, s", "", f"{build['stock']:.0f}", ""),
    ]
    lines = ["| | ours | stock | ours / stock |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    note = "Our system image holds vLLM and a model, the stock one neither; the boots lead to the same point."
    return "\n".join([*lines, "", note, f"Runs: ours {boots['ours']}, stock {boots['stock']} s.", ""])


def main() -> int:
    """Run the benchmark; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="boots of each image (default 3)")
    parser.add_argument("--build", action="store_true", help="measure our build with cold and warm caches, too")
    options = parser.parse_args()
    if not (IMAGE / "manifest.json").exists():
        sys.exit(f"there is no image at {IMAGE}; run `make image` first")
    manifest = json.loads((IMAGE / "manifest.json").read_text())
    reports = ROOT / "build/benchmarks"
    reports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vllmd-boot-", dir="/var/tmp") as name:  # gigabytes, on disk
        work = Path(name)
        (work / "tmp").mkdir()
        stock_dir, stock_seconds = stock_image(work / "tmp", manifest["debian"]["release"])
        stock = Guest(
            "stock", stock_dir / "kernel", stock_dir / "initrd", stock_dir / "system.raw",
            stock_config(work), STOCK_CMDLINE, readonly=False,
        )  # fmt: skip
        ours = our_guest(our_config(work))
        boots: dict[str, list[float]] = {"ours": [], "stock": []}
        for number in range(1, options.runs + 1):
            for guest in (ours, stock):
                with booted(guest, work, number) as seconds:
                    pass
                boots[guest.name].append(round(seconds, 1))
                print(f"boot {number}/{options.runs} {guest.name}: {seconds:.1f} s", flush=True)
        results: dict[str, Any] = {
            "boot_seconds": boots,
            "size": {"ours": sizes(IMAGE), "stock": sizes(stock_dir)},
            "build_seconds": {"ours": our_builds(work / "tmp") if options.build else {}, "stock": stock_seconds},
        }
    text = report(results)
    (reports / "boot.json").write_text(json.dumps(results, indent=2) + "\n")
    (reports / "boot.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
