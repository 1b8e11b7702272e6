# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which devices are meant: by address, by vendor:device, by class, or all accelerators of a vendor except some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..host.model import Host, PciDevice

ALL = "all"
# Display controllers (VGA, 3D, other) and processing accelerators: the PCI Code and ID Assignment Specification.
ACCELERATOR_CLASSES = (0x0300, 0x0302, 0x0380, 0x1200)
_NVSWITCH_CLASS = 0x0680
_BDF = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_CLASS = re.compile(r"class:([0-9a-f]{2}(?:[0-9a-f]{2}){0,2})")
_VENDOR = re.compile(r"[0-9a-f]{4}")


class SelectionError(ValueError):
    """A selector that cannot be meant: one line that says what is allowed or what there is."""


@dataclass(frozen=True)
class Choice:
    """Addresses asked for, and addresses that must not be touched."""

    chosen: tuple[str, ...]
    excluded: frozenset[str] = frozenset()


def kind(device: PciDevice) -> int | None:
    """Return the upper 16 bits of a device's class: base class and subclass."""
    return None if device.class_code is None else device.class_code >> 8


def is_accelerator(device: PciDevice, vendor: str) -> bool:
    """Return whether a device is a physical accelerator of ``vendor``."""
    return device.vendor_id == vendor and kind(device) in ACCELERATOR_CLASSES and device.physical_function is None


def is_nvswitch(device: PciDevice, vendor: str) -> bool:
    """Return whether a device switches the links between a vendor's accelerators (NVSwitch: class 0680, a bridge)."""
    return device.vendor_id == vendor and kind(device) == _NVSWITCH_CLASS


def choose(
    host: Host, selectors: Sequence[str], exclude: Sequence[str] = (), vendor: str = "10de", nvswitches: bool = False
) -> Choice:
    """Return the devices that ``selectors`` mean without those that ``exclude`` means.

    A selector is an address (``0000:41:00.0`` or ``41:00.0``), ``vendor:device`` (``10de:2330``), ``class:0302`` (2, 4
    or 6 digits) or ``all``, every accelerator of ``vendor``; ``nvswitches`` adds the vendor's NVSwitches to ``all``.
    Raises SelectionError for one that is none of these or, among ``selectors``, matches nothing.
    """
    if not _VENDOR.fullmatch(vendor.lower()):
        raise SelectionError(f"vendor {vendor!r} is no PCI vendor id; write 4 hexadecimal digits such as 10de")
    vendor = vendor.lower()
    chosen: set[str] = set()
    for selector in selectors:
        matched = _match(host, selector, vendor, nvswitches)
        if not matched:
            raise SelectionError(_nothing(host, selector, vendor))
        chosen |= matched
    excluded = {bdf for selector in exclude for bdf in _match(host, selector, vendor, nvswitches)}
    if chosen and not chosen - excluded:
        raise SelectionError(f"nothing is left to bind: {', '.join(exclude)} excludes all of {', '.join(selectors)}")
    return Choice(tuple(sorted(chosen - excluded)), frozenset(excluded))


def normalise_bdf(text: str) -> str | None:
    """Return ``0000:01:00.0`` for ``01:00.0`` or ``0000:01:00.0`` in any case; None when it is no PCI address."""
    match = _BDF.fullmatch(text.strip().lower())
    return f"{match[1] or '0000'}:{match[2]}:{match[3]}.{match[4]}" if match else None


def _match(host: Host, selector: str, vendor: str, nvswitches: bool) -> set[str]:
    text = selector.strip().lower()
    devices = host.pci.devices.values()
    bdf = normalise_bdf(text)
    if bdf is not None:
        return _bdfs(each for each in devices if each.bdf == bdf)
    if _ID.fullmatch(text):
        return _bdfs(each for each in devices if each.id == text)
    if by_class := _CLASS.fullmatch(text):
        digits = by_class[1]
        known = (each for each in devices if each.class_code is not None and not each.is_bridge)
        return _bdfs(each for each in known if f"{each.class_code:06x}".startswith(digits))
    if text == ALL:
        wanted = [each for each in devices if is_accelerator(each, vendor)]
        if wanted and nvswitches:
            wanted += [each for each in devices if is_nvswitch(each, vendor)]
        return _bdfs(wanted)
    raise SelectionError(
        f"{selector!r} selects no device; write an address (0000:41:00.0), vendor:device (10de:2330), class:0302 or all"
    )


def _bdfs(devices: Iterable[PciDevice]) -> set[str]:
    return {each.bdf for each in devices}


def _nothing(host: Host, selector: str, vendor: str) -> str:
    present = [
        f"{each.bdf} {each.id}"
        for each in sorted(host.pci.devices.values(), key=lambda device: device.bdf)
        if kind(each) in ACCELERATOR_CLASSES
    ]
    meant = f"all (vendor {vendor})" if selector.strip().lower() == ALL else selector
    return f"{meant} matches no device; displays and accelerators here: {', '.join(present) or 'none'}"
