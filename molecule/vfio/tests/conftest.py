"""What the scenario's tests share: what drives each PCI function, and a machine that reboots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "shared/testing"))
from passthrough import binding, functions_of


@pytest.fixture(scope="module")
def functions(host: Any) -> Callable[[], dict[str, list[str]]]:
    """Reads what drives each function now: {address: [driver, driver_override, IOMMU group]}."""
    return partial(functions_of, host)


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
    return partial(binding, host)


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
