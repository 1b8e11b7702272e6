# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read a whole host: `read_host`."""

from __future__ import annotations

from .boot import read_boot, read_kernel
from .cpu import read_cpu
from .graphics import read_graphics
from .handles import read_handles
from .iommu import read_iommu
from .kvm import read_kvm
from .memory import read_memory, read_numa
from .model import Host
from .modules import read_modules
from .network import read_network
from .pci import read_pci
from .security import read_confidential, read_limits, read_security
from .software import read_packages, read_time, read_vmm
from .storage import read_mounts, read_storage
from .system import group_members, read_cgroups, read_nodes, read_system
from .tree import Tree
from .vfio_drivers import VfioDrivers


def read_host(root: str = "/", packages: tuple[str, ...] = (), directories: tuple[str, ...] = ()) -> Host:
    """Return everything about the host whose files lie below ``root``; a captured tree reads like a live host.

    Nothing is started and nothing is changed. What cannot be read is None; what was there and made no sense is named
    in ``troubles``. Only root sees everything: other processes' handles, memory windows, ACS.
    ``packages`` and ``directories`` (absolute paths) are looked at beside those that matter to every host.
    """
    tree = Tree(root)
    release = tree.word("proc/sys/kernel/osrelease")
    iomem = tree.text("proc/iomem") or ""
    mounts = read_mounts(tree)
    vfio_drivers = VfioDrivers(tree, release)
    cpu, boot, iommu, nodes = read_cpu(tree), read_boot(tree, mounts), read_iommu(tree), read_nodes(tree)
    storage = read_storage(tree, mounts, directories)
    pci, processes = read_handles(tree, read_pci(tree, vfio_drivers, iomem), iommu, storage.devices)
    kvm_node = nodes.get("/dev/kvm")
    members = group_members(tree, kvm_node.gid) if kvm_node else ()
    installed = read_packages(tree, packages)
    return Host(
        system=read_system(tree, cpu),
        cpu=cpu,
        kvm=read_kvm(tree, cpu, kvm_node, members),
        iommu=iommu,
        pci=pci,
        graphics=read_graphics(tree, pci, iomem),
        memory=read_memory(tree, mounts),
        numa=read_numa(tree),
        boot=boot,
        kernel=read_kernel(tree, release),
        modules=read_modules(tree, release, vfio_drivers),
        security=read_security(tree, boot),
        storage=storage,
        network=read_network(tree, mounts),
        vmm=read_vmm(tree, installed),
        confidential=read_confidential(tree, cpu, boot),
        packages=installed,
        limits=read_limits(tree),
        cgroups=read_cgroups(tree),
        time=read_time(tree),
        processes=processes,
        nodes=nodes,
        troubles=tree.troubles,
    )
