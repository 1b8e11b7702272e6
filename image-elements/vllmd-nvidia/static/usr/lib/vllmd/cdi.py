"""Write the CDI specification of this machine's NVIDIA GPUs, from what the driver says of them under /proc.

Usage: cdi.py FILE [ROOT]

CDI (the Container Device Interface, version 0.5.0) tells a container runtime which device nodes and files a container
gets that asks for `nvidia.com/gpu=0`, `nvidia.com/gpu=GPU-<uuid>` or `nvidia.com/gpu=all`. NVIDIA's own nvidia-ctk
makes a richer one (MIG, hooks for the library cache); this is for guests without it. The driver's libraries are mounted
at the name that programs load them by, into the directory that Debian and Ubuntu search.

ROOT is where the machine's root is, for tests. Standard library only; bad input is one line and exit status 1.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

CDI_VERSION = "0.5.0"
KIND = "nvidia.com/gpu"
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
#: Names that programs load, and Debian's place for them beside the usual one.
LIBRARY_NAMES = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4")
PROGRAMS = ("usr/bin/nvidia-smi",)
#: Nodes that every container with a GPU gets, where they exist.
SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class CdiError(Exception):
    """Why there is no specification, in one line."""


def gpus(root: Path) -> list[dict[str, str]]:
    """Return the GPUs that the driver knows, by minor number, each as ``{minor, uuid, address}``. Raises CdiError."""
    directory = root / "proc/driver/nvidia/gpus"
    found = []
    try:
        for path in sorted(directory.iterdir()):
            text = (path / "information").read_text(encoding="utf-8", errors="replace")
            rows = (row.split(":", 1) for row in text.splitlines() if ":" in row)
            fields = {name.strip(): value.strip() for name, value in rows}
            if not re.fullmatch(r"\d+", fields.get("Device Minor", "")):
                raise CdiError(
                    f"{path}/information has no line 'Device Minor: NUMBER'; is the driver of the image's release?"
                )
            found.append({"minor": fields["Device Minor"], "uuid": fields.get("GPU UUID", ""), "address": path.name})
    except OSError as error:
        raise CdiError(f"cannot read {error.filename}: {error.strerror}; is the module nvidia loaded?") from None
    if not found:
        raise CdiError(f"{directory} is empty: the driver found no GPU that it knows")
    return sorted(found, key=lambda gpu: int(gpu["minor"]))


def node(path: str) -> dict[str, str]:
    """Return the entry of one device node."""
    return {"path": path}


def mounts(root: Path) -> list[dict[str, Any]]:
    """Return the mounts of the driver's libraries and programs that exist below ``root``, read-only."""
    top = root.resolve()
    found = []
    for name in (*(LIBRARIES / library for library in LIBRARY_NAMES), *map(Path, PROGRAMS)):
        real = (root / name).resolve()
        if real.is_file():
            found.append((f"/{real.relative_to(top)}", f"/{name}"))
    options = ["ro", "nosuid", "nodev", "bind"]
    return [{"hostPath": source, "containerPath": target, "options": options} for source, target in found]


def specification(root: Path) -> dict[str, Any]:
    """Return the CDI specification of the machine at ``root``. Raises CdiError."""
    found = gpus(root)
    nodes = [node(f"/dev/nvidia{gpu['minor']}") for gpu in found]
    missing = [each["path"] for each in nodes if not (root / each["path"].lstrip("/")).exists()]
    if missing:
        raise CdiError(f"{', '.join(missing)} is not there; vllmd-nvidia.service makes the device nodes")
    devices = []
    for gpu, each in zip(found, nodes, strict=True):
        edits = {"deviceNodes": [each]}
        devices.append({"name": gpu["minor"], "containerEdits": edits})
        if re.fullmatch(r"GPU-[0-9a-f-]+", gpu["uuid"]):
            devices.append({"name": gpu["uuid"], "containerEdits": edits})
    devices.append({"name": "all", "containerEdits": {"deviceNodes": nodes}})
    shared = [node(f"/dev/{name}") for name in SHARED_NODES if (root / "dev" / name).exists()]
    # Void: a runtime that reads this variable must not add to what CDI gave.
    common = {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": shared, "mounts": mounts(root)}
    return {"cdiVersion": CDI_VERSION, "kind": KIND, "devices": devices, "containerEdits": common}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON to ``path`` by rename: a runtime that watches the directory never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(arguments: list[str]) -> int:
    """Write the specification; return the exit status."""
    if not 1 <= len(arguments) <= 2:
        print("usage: cdi.py FILE [ROOT]", file=sys.stderr)
        return 2
    try:
        write(Path(arguments[0]), specification(Path(arguments[1] if len(arguments) > 1 else "/")))
    except CdiError as error:
        print(f"cdi: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cdi: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
