# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read a whole host: `read_host`."""

from __future__ import annotations

from .iommu import read_iommu
from .model import Host
from .pci import read_pci
from .tree import Tree
from .vfio_drivers import VfioDrivers


def read_host(root: str = "/") -> Host:
    """Return everything about the host whose files lie below ``root``; a captured tree reads like a live host.

    Nothing is started and nothing is changed. What cannot be read is None; what was there and made no sense is named
    in ``troubles``. Only root sees everything: other processes' handles, memory windows, ACS.
    """
    tree = Tree(root)
    release = tree.word("proc/sys/kernel/osrelease")
    iomem = tree.text("proc/iomem") or ""
    vfio_drivers = VfioDrivers(tree, release)
    return Host(
        iommu=read_iommu(tree),
        pci=read_pci(tree, vfio_drivers, iomem),
        troubles=tree.troubles,
    )
