#!/usr/bin/env python3
"""Make the container images of test clusters as docker archives: one that pauses, and Debian's static busybox.

Usage: container_images.py DIRECTORY     writes {pause,busybox}.tar (needs gcc and busybox-static)

The same inputs give the same bytes, so an image keeps its digest between runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REGISTRY = "bed.invalid"  # never resolves (RFC 2606): an image that is not there is never looked for elsewhere
APPLETS = ("sh", "cat", "hostname", "httpd", "ip", "mv", "nslookup", "sleep", "wget")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive(members: dict[str, bytes | str]) -> bytes:
    """Return a tar of programs and files (bytes) and links (str, where they point)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def image(name: str, entrypoint: list[str], members: dict[str, bytes | str], path: str = "/bin") -> bytes:
    """Return a docker archive (moby's image specification 1.2) of one layer; `path` says where programs are."""
    layer = archive(members)
    config = {
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": entrypoint, "Env": [f"PATH={path}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(config).encode()
    digest = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return archive({f"{digest}.json": text, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def pause() -> bytes:
    """Return the program that pauses, compiled without anything it would have to load."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "pause")
        source = Path(__file__).with_name("pause.c")
        subprocess.run(["gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", program, source], check=True)
        return program.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Put the file there whole, unless it is already."""
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)


def main() -> int:
    """Write both images; return the exit status."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    busybox: dict[str, bytes | str] = {"bin/busybox": Path("/bin/busybox").read_bytes()}
    busybox.update({f"bin/{applet}": "busybox" for applet in APPLETS})
    try:
        write(target / "pause.tar", image(f"{REGISTRY}/pause:1", ["/pause"], {"pause": pause()}))
        write(target / "busybox.tar", image(f"{REGISTRY}/busybox:1", ["/bin/busybox"], busybox))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"container images for test clusters were not made in {target}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
