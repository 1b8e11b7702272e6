# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From a host and a request to the groups to bind, or to the reasons not to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..host.model import Host, PciDevice
from . import groups as expansion
from .choose import Choice, choose
from .record import BINDING, BOUND, Device, Group, Record
from .refuse import Policy, Refusal, is_bound, refuse
from .sysfs import PCI, Sysfs


@dataclass(frozen=True)
class Request:
    """What to bind, in the words of `choose`, and what is allowed."""

    devices: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    nvswitches: bool = False
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Plan:
    """The groups to bind, whole; or refusals, and then nothing may be bound."""

    choice: Choice
    members: tuple[expansion.Members, ...]
    refusals: tuple[Refusal, ...]
    groups: tuple[Group, ...]


def plan(host: Host, request: Request, record: Record, sysfs: Sysfs) -> Plan:
    """Return what to bind. Raises choose.SelectionError."""
    choice = choose(host, request.devices, request.exclude, request.policy.vendor, request.nvswitches)
    members = tuple(expansion.expand(host, choice))
    refusals = tuple(refuse(host, members, choice, request.policy))
    groups = () if refusals else tuple(_group(host, each, record, sysfs) for each in members)
    return Plan(choice, members, refusals, groups)


def recorded(record: Record, bdfs: Sequence[str] | None) -> list[Group]:
    """Return the recorded groups that hold one of ``bdfs``; all of them for None."""
    return [group for group in record.groups if bdfs is None or group.bdfs & set(bdfs)]


def _group(host: Host, members: expansion.Members, record: Record, sysfs: Sysfs) -> Group:
    ordered = expansion.order(host, members.devices)
    devices = tuple(_device(host.pci.devices[bdf], record, sysfs) for bdf in ordered)
    phase = BOUND if is_bound(host, members) else BINDING
    return Group(members.group if members.group is not None else -1, devices, phase)


def _device(device: PciDevice, record: Record, sysfs: Sysfs) -> Device:
    """Return a device as it is to be given back.

    What was recorded holds while the device is still with vfio, or on its way there (our udev rule sets the override
    before any driver takes it). One that has its own driver again is as somebody wants it now.
    """
    now = Device(
        bdf=device.bdf,
        identity=device.id,
        driver=device.driver,
        module=sysfs.link(f"{PCI}/drivers/{device.driver}/module") if device.driver else None,
        override=device.driver_override,
        target=device.vfio_driver,
        target_module=device.vfio_module,
    )
    before = record.device(device.bdf)
    if before is None or before.identity != now.identity:
        return now
    targets = (before.target, now.target)
    if device.driver in targets or (device.driver is None and device.driver_override in targets):
        return replace(now, driver=before.driver, module=before.module, override=before.override)
    return now
