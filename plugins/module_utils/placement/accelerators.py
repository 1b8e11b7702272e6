# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an accelerator is, by its PCI id: the type that a manifest names, its memory, and whether NVLink joins it.

Nothing in sysfs says how much memory a GPU has (its BAR is rounded up to a power of two), so it is a table: names as in
the PCI ID repository, memory as the vendor sells it. A device that is not in it has the type ``pci-VENDOR-DEVICE`` and
unknown memory; an inventory adds its own with `known`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB_IN_MIB = 1024
_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_TYPE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class AcceleratorError(ValueError):
    """An entry of the inventory's own table that cannot be used: one line for a person."""


@dataclass(frozen=True)
class Accelerator:
    """A model: its type as manifests name it, memory in MiB (None: unknown), whether it is on NVLink by itself."""

    type: str
    memory_mib: int | None
    is_nvlinked: bool = False


# type, memory in GiB as sold, PCI ids; SXM modules and superchips are joined by NVLink on their board.
_PCIE: tuple[tuple[str, int, str], ...] = (
    ("nvidia-t4", 16, "10de:1eb8"),
    ("nvidia-v100", 16, "10de:1db4"),
    ("nvidia-v100", 32, "10de:1db6"),
    ("nvidia-rtx-2080-ti", 11, "10de:1e07"),
    ("nvidia-rtx-3090", 24, "10de:2204"),
    ("nvidia-rtx-4090", 24, "10de:2684"),
    ("nvidia-rtx-5090", 32, "10de:2b85"),
    ("nvidia-rtx-a6000", 48, "10de:2230"),
    ("nvidia-rtx-a5000", 24, "10de:2231"),
    ("nvidia-rtx-6000-ada", 48, "10de:26b1"),
    ("nvidia-a2", 16, "10de:25b6"),
    ("nvidia-a10", 24, "10de:2236"),
    ("nvidia-a10g", 24, "10de:2237"),
    ("nvidia-a30", 24, "10de:20b7"),
    ("nvidia-a40", 48, "10de:2235"),
    ("nvidia-a100", 40, "10de:20f1"),
    ("nvidia-a100", 40, "10de:20b1"),
    ("nvidia-a100", 80, "10de:20b5"),
    ("nvidia-a800", 40, "10de:20f6"),
    ("nvidia-a800", 80, "10de:20f5"),
    ("nvidia-l4", 24, "10de:27b8"),
    ("nvidia-l40", 48, "10de:26b5"),
    ("nvidia-l40s", 48, "10de:26b9"),
    ("nvidia-h100", 80, "10de:2331"),
    ("nvidia-h100-nvl", 94, "10de:2321"),
    ("nvidia-h800", 80, "10de:2322"),
    ("nvidia-h200-nvl", 141, "10de:233b"),
    ("nvidia-rtx-pro-6000", 96, "10de:2bb5"),
    ("amd-mi210", 64, "1002:740f"),
    ("amd-mi300x", 192, "1002:74a1"),
)
_NVLINKED: tuple[tuple[str, int, str], ...] = (
    ("nvidia-v100", 16, "10de:1db1"),
    ("nvidia-v100", 32, "10de:1db5"),
    ("nvidia-a100", 40, "10de:20b0"),
    ("nvidia-a100", 80, "10de:20b2"),
    ("nvidia-a800", 40, "10de:20bd"),
    ("nvidia-a800", 80, "10de:20f3"),
    ("nvidia-h100", 64, "10de:2337"),
    ("nvidia-h100", 80, "10de:2330"),
    ("nvidia-h100", 94, "10de:2339"),
    ("nvidia-h100", 96, "10de:2338"),
    ("nvidia-h800", 80, "10de:2324"),
    ("nvidia-h20", 96, "10de:2329"),
    ("nvidia-h200", 141, "10de:2335"),
    ("nvidia-gh200", 96, "10de:2342"),
    ("nvidia-gh200", 144, "10de:2348"),
    ("nvidia-b200", 180, "10de:2901"),
)
KNOWN: dict[str, Accelerator] = {
    identity: Accelerator(kind, gib * GIB_IN_MIB, is_nvlinked)
    for table, is_nvlinked in ((_PCIE, False), (_NVLINKED, True))
    for kind, gib, identity in table
}


def known(additions: Mapping[str, Any]) -> dict[str, Accelerator]:
    """Return the table with an inventory's ``{"10de:2235": {"type": "nvidia-a40", "memory_gib": 48}}`` over it.

    ``nvlink`` says whether the device sits on NVLink. Raises AcceleratorError.
    """
    table = dict(KNOWN)
    for identity, given in additions.items():
        where = f"accelerator {identity}"
        if not _ID.fullmatch(str(identity)):
            raise AcceleratorError(f"{where}: not a PCI id; write vendor:device in lower case, such as 10de:2235")
        if not isinstance(given, Mapping) or set(given) - {"type", "memory_gib", "nvlink"}:
            raise AcceleratorError(f"{where}: found {given!r}; allowed: a mapping of type, memory_gib and nvlink")
        kind, memory, linked = given.get("type"), given.get("memory_gib"), given.get("nvlink", False)
        if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
            raise AcceleratorError(f"{where}: type {kind!r}; allowed: a-z, 0-9, '.' and '-', such as nvidia-a40")
        if memory is not None and (not isinstance(memory, int) or isinstance(memory, bool) or memory < 1):
            raise AcceleratorError(f"{where}: memory_gib {memory!r}; allowed: whole GiB, at least 1")
        if not isinstance(linked, bool):
            raise AcceleratorError(f"{where}: nvlink {linked!r}; allowed: true or false")
        table[str(identity)] = Accelerator(kind, None if memory is None else memory * GIB_IN_MIB, linked)
    return table


def identify(identity: str, table: Mapping[str, Accelerator]) -> Accelerator:
    """Return what the device ``vendor:device`` is; ``pci-VENDOR-DEVICE`` when the table does not know it."""
    found = table.get(identity)
    return found if found is not None else Accelerator(f"pci-{identity.replace(':', '-').replace('?', 'x')}", None)
