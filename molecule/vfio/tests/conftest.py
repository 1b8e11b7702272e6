"""What the scenario's tests share: what drives each PCI function, and a machine that reboots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def functions(host: Any) -> Callable[[], dict[str, list[str]]]:
    """Reads what drives each function now: {address: [driver, driver_override, IOMMU group]}."""
    return lambda: json.loads(host.check_output("python3 -c %s", READ))


# Whom the host keeps, and their drivers.
NATIVE = {
    "0000:00:02.0": "bochs-drm",
    "0000:00:03.0": "virtio-pci",
    "0000:03:00.0": "bochs-drm",
    "0000:04:00.0": "bochs-drm",
    "0000:05:00.0": "nvme",
    "0000:06:00.0": "bochs-drm",
    "0000:06:00.1": "virtio-pci",
    "0000:07:00.0": "virtio-pci",
    "0000:07:00.1": "virtio-pci",
    "0000:08:00.0": "bochs-drm",
    "0000:08:00.1": "snd_hda_intel",
}


@pytest.fixture(scope="session")
def native() -> dict[str, str]:
    """The functions that are never bound, with the drivers they keep."""
    return NATIVE


@pytest.fixture(scope="module")
def bind(host: Any) -> Callable[..., dict[str, Any]]:
    """Runs module vfio_binding on the host; what it said, also when it refused."""

    def run(**arguments: Any) -> dict[str, Any]:
        try:
            result = host.ansible("vllmd.platform.vfio_binding", json.dumps(arguments), check=False)
        except host.ansible.AnsibleException as refused:
            result = refused.result
        # ansible-core 2.19 does not write "failed" where testinfra reads; this module has "msg" only then.
        return {**result, "failed": "msg" in result}

    return run


@pytest.fixture(scope="module")
def reboot(host: Any) -> Callable[[], None]:
    """Reboots the host and waits for it."""
    return lambda: host.ansible("ansible.builtin.reboot", "reboot_timeout=1200 connect_timeout=20", check=False)


@pytest.fixture
def read_only(host: Any) -> Iterator[Callable[[str], None]]:
    """Makes a file of the host refuse to be written, until the test ends."""
    held: list[str] = []

    def hold(path: str) -> None:
        host.check_output(f"mount --bind {path} {path} && mount -o remount,bind,ro {path}")
        held.append(path)

    yield hold
    for path in held:
        host.check_output(f"umount {path}")
