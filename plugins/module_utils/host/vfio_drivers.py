# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which vfio driver fits a PCI function: vfio-pci, or a variant driver that the kernel names in modules.alias.

Lines ``alias vfio_pci:v000010DEd... MODULE`` (Documentation/driver-api/vfio.rst, drivers/vfio/pci) match a function's
modalias with ``vfio_pci`` in the place of ``pci``. Of several the one with the fewest wildcards fits best.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from .tree import Tree

_LINE = re.compile(rb"^alias (vfio_pci:[^\s]+) ([^\s]+)$", re.MULTILINE)
#: Drivers that do not have their module's name, from the .name of their struct pci_driver (all others are
#: KBUILD_MODNAME: the module's name with underscores).
_DRIVER_NAMES = {"vfio_pci": "vfio-pci", "xe_vfio_pci": "xe-vfio-pci"}


class VfioDrivers:
    """The variant drivers of the running kernel; ``aliases`` are (pattern, module) as they stand in modules.alias."""

    def __init__(self, tree: Tree, release: str | None) -> None:
        self._tree = tree
        data = tree.content(f"lib/modules/{release}/modules.alias") if release and "/" not in release else None
        pairs = [
            (match[1].decode("ascii", "replace"), match[2].decode("ascii", "replace").replace("-", "_"))
            for match in _LINE.finditer(data or b"")
        ]
        self.aliases = tuple(pair for pair in pairs if pair[1] != "vfio_pci")
        self._names: dict[str, str] = {}

    def for_modalias(self, modalias: str | None) -> tuple[str, str]:
        """Return (module, driver) for a function's modalias (``pci:v...``); vfio-pci where no variant matches."""
        wanted = f"vfio_{modalias}"
        matches = [
            (pattern.count("*"), module)
            for pattern, module in self.aliases
            if modalias and fnmatchcase(wanted, pattern)
        ]
        module = min(matches)[1] if matches else "vfio_pci"
        if module not in self._names:
            self._names[module] = self._driver_name(module)
        return module, self._names[module]

    def _driver_name(self, module: str) -> str:
        """Return the driver that a module registers; a loaded module shows it, for others it is known or its name."""
        for name in self._tree.names(f"sys/module/{module}/drivers"):
            if name.startswith("pci:"):
                return name.removeprefix("pci:")
        return _DRIVER_NAMES.get(module, module)
