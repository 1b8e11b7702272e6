# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Everything read from one host, as one tree of frozen dataclasses; ``schemas/host-v1.schema.json`` is its JSON form.

None means unknown (not there to read, no permission, or garbage), an empty tuple or dict means that there is none.
Every field has a default, so a test writes only what it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .model_devices import (
    BarClaim,
    BlockDevice,
    BlockUse,
    DeviceNode,
    Filesystem,
    Framebuffer,
    Graphics,
    Interface,
    Iommu,
    IommuGroup,
    IommuUnit,
    MmioWindow,
    Network,
    OpenHandle,
    Pci,
    PciAcs,
    PciBar,
    PciDevice,
    PciLink,
    PciSriov,
    Storage,
    VtConsole,
)
from .model_system import (
    Boot,
    Cgroups,
    Confidential,
    ConfigFile,
    Cpu,
    CpuCore,
    HugepagePool,
    Kernel,
    Kvm,
    Limits,
    LoadedModule,
    Memory,
    ModprobeLine,
    Modules,
    Numa,
    NumaNode,
    NvidiaDriver,
    Packages,
    Processes,
    Program,
    Security,
    System,
    Time,
    Trouble,
    Vmm,
)

#: Grows when a field changes its meaning or goes away; new fields leave it as it is.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Host:
    """One host at one moment. ``nodes`` are device nodes by path; ``troubles`` are files that could not be used."""

    schema_version: int = SCHEMA_VERSION
    system: System = field(default_factory=System)
    cpu: Cpu = field(default_factory=Cpu)
    kvm: Kvm = field(default_factory=Kvm)
    iommu: Iommu = field(default_factory=Iommu)
    pci: Pci = field(default_factory=Pci)
    graphics: Graphics = field(default_factory=Graphics)
    memory: Memory = field(default_factory=Memory)
    numa: Numa = field(default_factory=Numa)
    boot: Boot = field(default_factory=Boot)
    kernel: Kernel = field(default_factory=Kernel)
    modules: Modules = field(default_factory=Modules)
    security: Security = field(default_factory=Security)
    storage: Storage = field(default_factory=Storage)
    network: Network = field(default_factory=Network)
    vmm: Vmm = field(default_factory=Vmm)
    confidential: Confidential = field(default_factory=Confidential)
    packages: Packages = field(default_factory=Packages)
    limits: Limits = field(default_factory=Limits)
    cgroups: Cgroups = field(default_factory=Cgroups)
    time: Time = field(default_factory=Time)
    processes: Processes = field(default_factory=Processes)
    nodes: dict[str, DeviceNode] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()


__all__ = [
    "SCHEMA_VERSION",
    "BarClaim",
    "BlockDevice",
    "BlockUse",
    "Boot",
    "Cgroups",
    "Confidential",
    "ConfigFile",
    "Cpu",
    "CpuCore",
    "DeviceNode",
    "Filesystem",
    "Framebuffer",
    "Graphics",
    "Host",
    "HugepagePool",
    "Interface",
    "Iommu",
    "IommuGroup",
    "IommuUnit",
    "Kernel",
    "Kvm",
    "Limits",
    "LoadedModule",
    "Memory",
    "MmioWindow",
    "ModprobeLine",
    "Modules",
    "Network",
    "Numa",
    "NumaNode",
    "NvidiaDriver",
    "OpenHandle",
    "Packages",
    "Pci",
    "PciAcs",
    "PciBar",
    "PciDevice",
    "PciLink",
    "PciSriov",
    "Processes",
    "Program",
    "Security",
    "Storage",
    "System",
    "Time",
    "Trouble",
    "Vmm",
    "VtConsole",
]
