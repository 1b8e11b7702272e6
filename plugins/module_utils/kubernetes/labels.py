# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node says of its hardware: labels and a taint that a scheduler can choose by, from the facts of its host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..host.model import Host, PciDevice
from ..placement.accelerators import KNOWN, Accelerator, identify
from ..vfio.choose import is_accelerator, is_nvswitch
from .names import LONGEST, legal_value

#: Labels of these domains are made from facts alone: what is no longer true is removed.
ACCELERATOR = "accelerator.vllmd.com"
HOST = "host.vllmd.com"
DOMAINS = (ACCELERATOR, HOST)
#: The taint that keeps pods which do not tolerate it away from nodes with accelerators.
TAINT = "vllmd.com/accelerator"
NVIDIA = "10de"
_MIXED = "mixed"


def hardware_labels(host: Host, vendor: str = NVIDIA, table: Mapping[str, Accelerator] | None = None) -> dict[str, str]:
    """Return the labels of ``host``, every key and value legal.

    ============================== =========================================================================
    accelerator.vllmd.com/type     the type that manifests name (``nvidia-h100``), ``mixed`` for several
    accelerator.vllmd.com/count    how many physical accelerators of ``vendor`` there are; 0 without any
    accelerator.vllmd.com/TYPE     how many there are of each type
    accelerator.vllmd.com/memory-mib  memory of one in MiB, of the smallest when they differ; left out when unknown
    accelerator.vllmd.com/nvlink   whether NVLink joins them: ``true``, ``false``
    accelerator.vllmd.com/isolation  ``vfio`` (virtual machines get them), ``driver`` (the host uses them), ``none``
                                   (nobody does), or ``mixed``
    accelerator.vllmd.com/driver   version of NVIDIA's kernel driver, where it is loaded
    accelerator.vllmd.com/numa-nodes  on how many NUMA nodes they are
    host.vllmd.com/numa-nodes      NUMA nodes with CPUs
    host.vllmd.com/confidential    ``sev-snp`` or ``tdx``, where guests can have it
    ============================== =========================================================================
    """
    devices = sorted(
        (each for each in host.pci.devices.values() if is_accelerator(each, vendor)), key=lambda device: device.bdf
    )
    labels = {f"{ACCELERATOR}/count": str(len(devices))}
    if devices:
        labels.update(_accelerators(host, devices, vendor, KNOWN if table is None else table))
    nodes = sum(1 for node in host.numa.nodes.values() if node.cpus)
    if nodes:
        labels[f"{HOST}/numa-nodes"] = str(nodes)
    if host.confidential.sev_snp:
        labels[f"{HOST}/confidential"] = "sev-snp"
    elif host.confidential.tdx:
        labels[f"{HOST}/confidential"] = "tdx"
    return dict(sorted(labels.items()))


def hardware_taints(labels: Mapping[str, str], effect: str) -> list[dict[str, str]]:
    """Return the taint of a node that has accelerators, ``vllmd.com/accelerator=TYPE:EFFECT``; none for no effect."""
    if not effect or labels.get(f"{ACCELERATOR}/count", "0") == "0":
        return []
    return [{"key": TAINT, "value": labels.get(f"{ACCELERATOR}/type", ""), "effect": effect}]


def changes(
    current: Mapping[str, str], wanted: Mapping[str, str], earlier: Mapping[str, str] | tuple[str, ...] | list[str]
) -> dict[str, str | None]:
    """Return what to change on a node with labels ``current``: the new value of each, None to take it away.

    Away goes what this collection put there and is not wanted any more: the labels of its own domains, and those with
    a key in ``earlier``. All others are somebody else's.
    """
    changed: dict[str, str | None] = {key: value for key, value in wanted.items() if current.get(key) != value}
    ours = {key for key in current if key.rpartition("/")[0] in DOMAINS} | set(earlier)
    changed.update({key: None for key in ours if key in current and key not in wanted})
    return dict(sorted(changed.items()))


def _accelerators(
    host: Host, devices: list[PciDevice], vendor: str, table: Mapping[str, Accelerator]
) -> dict[str, str]:
    models = [identify(device.id, table) for device in devices]
    kinds = Counter(legal_value(model.type) or "unknown" for model in models)
    labels = {f"{ACCELERATOR}/type": next(iter(kinds)) if len(kinds) == 1 else _MIXED}
    # "count" and the like are no types, whatever an inventory calls its own.
    named = {"count", "type", "memory-mib", "nvlink", "isolation", "driver", "numa-nodes"}
    labels.update({f"{ACCELERATOR}/{kind[:LONGEST]}": str(count) for kind, count in kinds.items() if kind not in named})
    if all(model.memory_mib is not None for model in models):
        labels[f"{ACCELERATOR}/memory-mib"] = str(min(model.memory_mib or 0 for model in models))
    linked = all(model.is_nvlinked for model in models)
    switched = any(is_nvswitch(device, vendor) for device in host.pci.devices.values())
    labels[f"{ACCELERATOR}/nvlink"] = "true" if linked or switched else "false"
    labels[f"{ACCELERATOR}/isolation"] = _isolation(devices)
    numa = {device.numa_node for device in devices if device.numa_node is not None and device.numa_node >= 0}
    if numa:
        labels[f"{ACCELERATOR}/numa-nodes"] = str(len(numa))
    driver = legal_value(host.modules.nvidia.version or "") if host.modules.nvidia else ""
    if driver:
        labels[f"{ACCELERATOR}/driver"] = driver
    return labels


def _isolation(devices: list[PciDevice]) -> str:
    modes = {
        "none" if device.driver is None else "vfio" if device.driver == device.vfio_driver else "driver"
        for device in devices
    }
    return modes.pop() if len(modes) == 1 else _MIXED
