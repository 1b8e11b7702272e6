#!/usr/bin/env python3
"""Boot the published image with each kind of wrong config image and show that it stops in words, and serves nothing.

For every one of them the console must have exactly one line "vllmd: FAILED: ..." that says what is wrong, systemd must
report vllmd-configure.service as failed, and the engine must never start. A last guest, with the right config image,
gets as far as its engine. Emulated, a round takes about 10 s.

    tests/system/bad_config_images.py [--image /var/lib/vllmd/images/vllmd-cpu/latest] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collection"))

from ansible_collections.vllmd.platform.plugins.module_utils import (  # noqa: E402  # found by the path above
    config_iso,
    guest_config,
    manifests,
)

LIMIT_SECONDS = 180
# How long a guest that has said it failed is watched for an engine that starts all the same.
WATCH_SECONDS = 4
STARTED = "vllmd: engine started"
FAILED = "vllmd: FAILED:"
UNIT = re.compile(r"Failed to start .*vllmd-configure\.service")
_LABEL_AT = 16 * 2048 + 40  # ECMA-119 8.4.7, volume identifier


@dataclass(frozen=True)
class Case:
    """A config image, what the console has to say about it, and words for the kernel's command line."""

    name: str
    make: Callable[[dict[str, Any], Path], bytes]
    says: str
    uid: str | None = None


def iso(guest: dict[str, Any], work: Path, **files: bytes | None) -> bytes:
    """Return a config image; ``files`` replace or, when None, take away ``vllmd/runtime.json``."""
    tree = guest_config.config_files(guest)
    for content in files.values():
        if content is None:
            del tree["vllmd/runtime.json"]
        else:
            tree["vllmd/runtime.json"] = content
    return config_iso.make(tree, work)


def relabelled(guest: dict[str, Any], work: Path) -> bytes:
    """Return a good image with another label."""
    image = iso(guest, work)
    return image[:_LABEL_AT] + b"OTHER".ljust(32) + image[_LABEL_AT + 32 :]


def changed(**changes: Any) -> Callable[[dict[str, Any], Path], bytes]:
    """Return a maker of images whose runtime.json has other values."""
    return lambda guest, work: iso(guest, work, runtime=json.dumps({**guest, **changes}).encode())


CASES = (
    Case("garbage", lambda _guest, _work: os.urandom(65536), "no disk with an ISO 9660 volume labelled CIDATA"),
    Case("blank", lambda _guest, _work: bytes(65536), "no disk with an ISO 9660 volume labelled CIDATA"),
    Case("other-label", relabelled, "no disk with an ISO 9660 volume labelled CIDATA"),
    Case("cut-short", lambda guest, work: iso(guest, work)[: 17 * 2048], "config image"),
    Case("no-document", lambda guest, work: iso(guest, work, runtime=None), "cannot read vllmd/runtime.json"),
    Case("not-json", lambda guest, work: iso(guest, work, runtime=b'{"name": '), "is not JSON"),
    Case("not-text", lambda guest, work: iso(guest, work, runtime=b"\xff\xfe{}"), "is not JSON"),
    Case("a-list", lambda guest, work: iso(guest, work, runtime=b"[]"), "is not a JSON object"),
    Case("wrong-type", changed(engine=[]), "runtime.json: engine is []; it has to be an object"),
    Case("wrong-version", changed(schema_version=2), "schema_version is 2"),
    Case("wrong-model", changed(model={"name": "m", "source": "local", "path": "/nowhere"}), "is not in this image"),
    Case("unknown-field", changed(surprise=1), "surprise is not a known field"),
    Case("other-runtime", iso, "the config image belongs to another runtime", "00000000-0000-0000-0000-000000000000"),
    Case("good", iso, ""),
)


def boot(case: Case, image: Path, work: Path) -> str:
    """Boot one guest; return what is wrong with its behaviour, or an empty string."""
    guest = guest_config.runtime_json(manifests.read_runtimes([ROOT / "inventories/local/runtime.yaml"])[0])
    directory = work / case.name
    directory.mkdir()
    config = directory / "config.iso"
    config.write_bytes(case.make(guest, directory))
    log = directory / "console.log"
    cmdline = json.loads((image / "manifest.json").read_text(encoding="utf-8"))["cmdline"]
    settings = {
        "NAME": f"bad-{case.name}",
        "RUN_DIRPATH": str(directory / "run"),
        "KERNEL_FILEPATH": str(image / "kernel"),
        "INITRD_FILEPATH": str(image / "initrd"),
        "SYSTEM_IMAGE_FILEPATH": str(image / "system.raw"),
        "SYSTEM_IMAGE_READONLY": "on",
        "CONFIG_IMAGE_FILEPATH": str(config),
        "CMDLINE": f"{cmdline} mitigations=off vllmd.uid={case.uid or guest['uid']}",
        "CPU_COUNT": "2",
        "MEMORY_CONFIG": "size=3G,shared=on",
        "LOG_FILEPATH": str(log),
    }
    environment = {f"VLLMD_HYPERVISOR_{name}": value for name, value in settings.items()}
    environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "roles/hypervisor/files")}
    command = [sys.executable, "-m", "vllmd_hypervisor", "start"]
    with (directory / "launcher.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=output)
    try:
        return good(log, process) if case.name == "good" else bad(case, log, process)
    finally:
        process.kill()  # this very guest, whose image is read-only
        process.wait()


def console(log: Path) -> str:
    """Return the console so far."""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def waited(log: Path, process: subprocess.Popen[bytes], found: Callable[[str], bool]) -> bool:
    """Return whether the console came to what is looked for."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        if found(console(log)):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def good(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return what is wrong with a guest that should start its engine."""
    return "" if waited(log, process, lambda text: STARTED in text) else f"its engine did not start; see {log}"


def bad(case: Case, log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return what is wrong with a guest that should refuse its config image."""
    if not waited(log, process, lambda text: FAILED in text and bool(UNIT.search(text))):
        return f"it did not fail in time; see {log}"
    time.sleep(WATCH_SECONDS)
    lines = [line.partition(FAILED)[2].strip() for line in console(log).splitlines() if FAILED in line]
    if len(lines) != 1 or case.says not in lines[0]:
        return f"it says {lines} instead of one line with {case.says!r}"
    if STARTED in console(log) or "configured runtime=" in console(log):
        return f"it went on all the same; see {log}"
    print(f"{case.name}: {lines[0]}", flush=True)
    return ""


def main() -> int:
    """Boot all cases one after the other; return 1 when one of them behaves wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=Path("/var/lib/vllmd/images/vllmd-cpu/latest"))
    parser.add_argument("--only", choices=[case.name for case in CASES], help="boot this one alone")
    options = parser.parse_args()
    if not (options.image / "manifest.json").exists():
        sys.exit(f"there is no image at {options.image}; run `make image` first, or name one with --image")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="vllmd-bad-config-") as name:
        for case in CASES:
            if options.only not in (None, case.name):
                continue
            problem = boot(case, options.image, Path(name))
            if problem:
                wrong += 1
                print(f"{case.name}: WRONG: {problem}\n{console(Path(name) / case.name / 'console.log')[-2000:]}")
    print(f"{len(CASES) if options.only is None else 1} config images, {wrong} behave wrongly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
