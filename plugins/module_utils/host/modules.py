# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Kernel modules: which are loaded, there or missing, what modprobe.d says of those that matter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .model import LoadedModule, ModprobeLine, Modules, NvidiaDriver
from .tree import Tree, parse_integer
from .vfio_drivers import VfioDrivers

#: Modules whose presence decides something.
NAMES = (
    *("vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "iommufd"),
    *("kvm", "kvm_intel", "kvm_amd", "vhost_net", "vhost_vsock", "tun"),
    *("nvidia", "nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia_fs", "nouveau", "nova_core"),
    *("amdgpu", "radeon", "i915", "xe", "snd_hda_intel"),
)
_FAMILIES = ("vfio", "iommufd", "kvm", "nvidia", "nouveau", "nova")
_DIRECTORIES = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
_LOAD = ("etc/modules-load.d", "run/modules-load.d", "usr/local/lib/modules-load.d", "usr/lib/modules-load.d")
_VERBS = ("options", "blacklist", "softdep", "weakdep", "install", "remove", "alias")
_NVIDIA_VERSION = re.compile(r"\b([0-9]{3,}\.[0-9]+(?:\.[0-9]+)?)\b")


def read_modules(tree: Tree, release: str | None, vfio_drivers: VfioDrivers) -> Modules:
    """Return the modules of the running kernel."""
    loaded = dict(_loaded(tree))
    return Modules(
        loaded=loaded,
        states=_states(tree, release, loaded),
        vfio_aliases=vfio_drivers.aliases,
        modprobe=tuple(_modprobe(tree)),
        load_at_boot=tuple(_load_at_boot(tree)),
        nvidia=_nvidia(tree, loaded),
    )


def _loaded(tree: Tree) -> Iterator[tuple[str, LoadedModule]]:
    for line in tree.lines("proc/modules"):
        words = line.split()
        numbers = [parse_integer(word) for word in words[1:3]]
        if len(words) < 4 or None in numbers:
            tree.trouble("proc/modules", f"found {line[:60]!r}, expected name, size, references and users")
            continue
        users = tuple(sorted(name for name in words[3].split(",") if name not in ("", "-", "[permanent]")))
        yield words[0], LoadedModule(words[0], numbers[0] or 0, numbers[1] or 0, users)


def _states(tree: Tree, release: str | None, loaded: dict[str, LoadedModule]) -> dict[str, str]:
    """Return where each module that matters is; nothing of those not loaded when the kernel's lists cannot be read."""
    directory = f"lib/modules/{release}" if release and "/" not in release else ""
    lists = [tree.content(f"{directory}/{name}") if directory else None for name in ("modules.builtin", "modules.dep")]
    builtin, available = ((data or b"").replace(b"-", b"_") for data in lists)
    states = {}
    for name in NAMES:
        file = f"/{name}.ko".encode("ascii")
        if name in loaded:
            states[name] = "loaded"
        elif file in builtin:
            states[name] = "builtin"
        elif file in available:
            states[name] = "available"
        elif None not in lists:
            states[name] = "missing"
    return states


def _modprobe(tree: Tree) -> Iterator[ModprobeLine]:
    for path in _files(tree, _DIRECTORIES, ".conf"):
        pending = ""
        for number, line in enumerate(tree.lines(path), start=1):
            text = f"{pending} {line}".strip() if pending else line.strip()
            pending = text[:-1] if text.endswith("\\") else ""
            if pending or not text or text.startswith("#"):
                continue
            verb, _space, rest = text.partition(" ")
            words = rest.split(None, 1)
            if verb not in _VERBS or not words:
                continue
            module = words[0].replace("-", "_")
            following = words[1] if len(words) > 1 else ""
            if _matters(module) or any(_matters(word.replace("-", "_")) for word in following.split()):
                yield ModprobeLine(f"/{path}", number, verb, module, following)


def _matters(module: str) -> bool:
    return module in NAMES or module.startswith(_FAMILIES)


def _load_at_boot(tree: Tree) -> Iterator[str]:
    paths = [*_files(tree, _LOAD, ".conf"), *(["etc/modules"] if tree.exists("etc/modules") else [])]
    seen: set[str] = set()
    for path in paths:
        for line in tree.lines(path):
            words = line.split()
            name = words[0].replace("-", "_") if words else "#"
            if not name.startswith(("#", ";")) and name not in seen:
                seen.add(name)
                yield name


def _files(tree: Tree, directories: tuple[str, ...], suffix: str) -> list[str]:
    """Return configuration files in the order of their names; the first directory that has a name hides the others."""
    paths: dict[str, str] = {}
    for directory in directories:
        for name in tree.names(directory):
            if name.endswith(suffix):
                paths.setdefault(name, f"{directory}/{name}")
    return [paths[name] for name in sorted(paths)]


def _nvidia(tree: Tree, loaded: dict[str, LoadedModule]) -> NvidiaDriver | None:
    text = tree.text("proc/driver/nvidia/version")
    if text is None and "nvidia" not in loaded:
        return None
    match = _NVIDIA_VERSION.search((text or "").partition("\n")[0])
    version = match[1] if match else tree.word("sys/module/nvidia/version")
    return NvidiaDriver(version, None if text is None else "Open Kernel Module" in text)
