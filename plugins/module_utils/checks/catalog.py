# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""All checks, subsystem by subsystem. Importing a file here registers its checks; a new file is added to _FILES."""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks import (
    bars,
    boot,
    confidential,
    cpu,
    devices,
    drivers,
    iommu,
    isolation,
    kvm,
    memory,
    network,
    numa,
    platform,
    security,
    services,
    storage,
    vmm,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import REGISTRY, Check

# In the order of a report: what must be right first stands first.
_FILES = (
    platform,
    cpu,
    kvm,
    iommu,
    isolation,
    devices,
    bars,
    drivers,
    memory,
    numa,
    boot,
    security,
    confidential,
    storage,
    network,
    services,
    vmm,
)


def checks() -> list[Check]:
    """Return every check, file by file."""
    order = {module.__name__: number for number, module in enumerate(_FILES)}
    return sorted(REGISTRY.values(), key=lambda check: order[check.examine.__module__])


def subsystems() -> list[str]:
    """Return the subsystems' names in the order of the checks."""
    return list(dict.fromkeys(check.subsystem for check in checks()))
