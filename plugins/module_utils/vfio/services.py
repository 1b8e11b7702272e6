# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Services that hold devices open: stopped for a binding, started again when nothing speaks against it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from ..host.model import Host

_SYSTEMCTL_SECONDS = 120


class ServiceError(Exception):
    """A unit that would not stop or start; one line."""


class Services(Protocol):
    """Stops and starts units."""

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it has ended. Raises ServiceError."""

    def start(self, unit: str) -> None:
        """Start a unit. Raises ServiceError."""


class Systemd:
    """The host's systemd."""

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it has ended. Raises ServiceError."""
        self._run("stop", unit)

    def start(self, unit: str) -> None:
        """Start a unit. Raises ServiceError."""
        self._run("start", unit)

    @staticmethod
    def _run(verb: str, unit: str) -> None:
        try:
            done = subprocess.run(
                ["systemctl", verb, "--", unit],
                check=False,
                capture_output=True,
                text=True,
                timeout=_SYSTEMCTL_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServiceError(f"systemctl {verb} {unit}: {error}") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"systemctl ended with {done.returncode}"
            raise ServiceError(f"{unit} would not {verb}: {said}")


def unit_names(names: Iterable[str]) -> frozenset[str]:
    """Return units' full names: ``nvidia-persistenced`` is ``nvidia-persistenced.service``."""
    return frozenset(name if name.endswith((".service", ".scope")) else f"{name}.service" for name in names)


def holding(host: Host, bdfs: Iterable[str], units: frozenset[str]) -> list[str]:
    """Return those of ``units`` that have one of the devices open."""
    devices = [host.pci.devices[bdf] for bdf in bdfs if bdf in host.pci.devices]
    return sorted({str(handle.unit) for device in devices for handle in device.handles if handle.unit in units})


def without(host: Host, units: frozenset[str]) -> Host:
    """Return the host as it will be when ``units`` have ended: none of their handles."""
    devices = {
        bdf: replace(device, handles=tuple(each for each in device.handles if each.unit not in units))
        for bdf, device in host.pci.devices.items()
    }
    return replace(host, pci=replace(host.pci, devices=devices))
