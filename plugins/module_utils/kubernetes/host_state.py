# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What of a host decides whether it can be a node, read below a root path; nothing is started, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: State of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
_LISTEN = "0A"
#: Where a module shows that is part of the kernel, or loaded, beside /sys/module: not all of them have an entry there.
_TRACES = {"br_netfilter": "proc/sys/net/bridge", "overlay": "sys/module/overlay"}
_FILESYSTEMS = ("overlay",)


@dataclass(frozen=True)
class HostState:
    """One host at one moment.

    ``modules`` are those that are there to use now, ``loadable`` those that could be loaded. ``sysctl`` has the values
    of the keys that were asked for, normalised to single spaces; a key that the kernel does not have is not in it.
    ``listening`` are TCP ports. ``swaps`` are the names of active swap areas, ``swaps_at_boot`` those in /etc/fstab.
    """

    hostname: str = ""
    machine_id: str = ""
    product_uuid: str = ""
    swaps: tuple[str, ...] = ()
    swaps_at_boot: tuple[str, ...] = ()
    modules: frozenset[str] = frozenset()
    loadable: frozenset[str] = frozenset()
    sysctl: Mapping[str, str] = field(default_factory=dict)
    listening: frozenset[int] = frozenset()
    has_nvidia_runtime: bool = False


def read_state(root: Path, modules: Iterable[str], keys: Iterable[str]) -> HostState:
    """Return the state of the host at ``root``; what cannot be read is empty."""
    names = tuple(modules)
    return HostState(
        hostname=_text(root / "proc/sys/kernel/hostname"),
        machine_id=_text(root / "etc/machine-id"),
        product_uuid=_text(root / "sys/class/dmi/id/product_uuid").lower(),
        swaps=tuple(line.split()[0] for line in _text(root / "proc/swaps").splitlines()[1:] if line.strip()),
        swaps_at_boot=_swaps_at_boot(_text(root / "etc/fstab")),
        modules=frozenset(name for name in names if _is_there(root, name)),
        loadable=_loadable(root, names),
        sysctl=_sysctl(root, keys),
        listening=_listening(root),
        has_nvidia_runtime=(root / "usr/bin/nvidia-container-runtime").exists(),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _swaps_at_boot(table: str) -> tuple[str, ...]:
    rows = [line.split() for line in table.splitlines() if not line.lstrip().startswith("#")]
    return tuple(row[0] for row in rows if len(row) > 2 and row[2] == "swap")


def _is_there(root: Path, name: str) -> bool:
    if (root / "sys/module" / name).exists() or (name in _TRACES and (root / _TRACES[name]).exists()):
        return True
    supported = {line.split()[-1] for line in _text(root / "proc/filesystems").splitlines() if line.strip()}
    return name in _FILESYSTEMS and name in supported


def _loadable(root: Path, names: Iterable[str]) -> frozenset[str]:
    directory = root / "lib/modules" / (_text(root / "proc/sys/kernel/osrelease") or "unknown")
    listed = set()
    for file in ("modules.dep", "modules.builtin"):
        for line in _text(directory / file).splitlines():
            listed.add(line.partition(":")[0].rpartition("/")[2].partition(".ko")[0].replace("-", "_"))
    return frozenset(name for name in names if name in listed)


def _sysctl(root: Path, keys: Iterable[str]) -> dict[str, str]:
    found = {}
    for key in keys:
        path = root / "proc/sys" / key.replace(".", "/")
        if path.is_file():
            found[key] = " ".join(_text(path).split())
    return found


def _listening(root: Path) -> frozenset[int]:
    ports = set()
    for name in ("tcp", "tcp6"):
        for line in _text(root / "proc/net" / name).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _LISTEN:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(ports)
