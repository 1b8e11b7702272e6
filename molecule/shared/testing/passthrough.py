"""What drives each PCI function of a host, and module vfio_binding as a test calls it."""

from __future__ import annotations

import json
from typing import Any

# Prints {address: [driver, driver_override, IOMMU group]} of all functions but bridges. One process: each is time here.
READ = """
import json, pathlib
shown = {}
for path in pathlib.Path("/sys/bus/pci/devices").iterdir():
    if (path / "class").read_text().startswith("0x06"):
        continue
    link = lambda name: (path / name).resolve().name if (path / name).exists() else ""
    shown[path.name] = [link("driver"), (path / "driver_override").read_text().strip(), link("iommu_group")]
print(json.dumps(shown))
"""


def functions_of(host: Any) -> dict[str, list[str]]:
    """Return what drives each function now: {address: [driver, driver_override, IOMMU group]}."""
    found: dict[str, list[str]] = json.loads(host.check_output("python3 -c %s", READ))
    return found


def binding(host: Any, **arguments: Any) -> dict[str, Any]:
    """Run module vfio_binding on the host; return what it said, also when it refused."""
    try:
        result = host.ansible("vllmd.platform.vfio_binding", json.dumps(arguments), check=False)
    except host.ansible.AnsibleException as refused:
        result = refused.result
    # ansible-core 2.19 does not write "failed" where testinfra reads; this module has "msg" only then.
    return {**result, "failed": "msg" in result}
