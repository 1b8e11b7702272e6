# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which devices the host itself lives on. What cannot be told counts as critical: a wrong guess takes the host away."""

from __future__ import annotations

from ..host.model import Host, PciDevice
from .choose import is_nvswitch, kind

_STORAGE, _NETWORK = 0x01, 0x02
# Memory controllers, bridges, base system peripherals, processors; and the SMBus, which holds sensors and memory.
_SYSTEM_BASE_CLASSES = (0x05, 0x06, 0x08, 0x0B)
_SYSTEM_CLASSES = (0x0C05,)
_VGA = 0x0300
_STACKED = ("dm-", "md", "bcache", "zd")  # block devices made of others: LVM and dm-crypt, MD, bcache, ZFS volumes


def why_critical(host: Host, device: PciDevice, vendor: str) -> str | None:
    """Return why the host needs a device, as the end of the sentence "it ..."; None when nothing shows that it does."""
    return _storage(host, device) or _network(host, device) or _system(device, vendor)


def why_boot_display(host: Host, device: PciDevice) -> str | None:
    """Return why a device shows the host's console; None when it does not."""
    graphics = host.graphics
    if device.boot_vga:
        return "is the display the firmware booted on"
    if graphics.boot_display == device.bdf:
        return "shows the host's console (it has the first framebuffer)"
    claim = next((each for each in graphics.claims if each.bdf == device.bdf), None)
    if claim is not None:
        return f"holds the boot framebuffer in its memory ({claim.name})"
    if kind(device) == _VGA and device.boot_vga is None:
        return "may be the display the firmware booted on (boot_vga cannot be read)"
    return None


def _storage(host: Host, device: PciDevice) -> str | None:
    storage, is_controller = host.storage, kind(device) is not None and (kind(device) or 0) >> 8 == _STORAGE
    for use in storage.uses:
        if device.bdf in use.pci_devices:
            return f"carries {use.device or use.source}, in use as {use.purpose}"
    for block in storage.devices.values():
        if device.bdf in block.pci_devices and block.name.startswith(_STACKED):
            return f"carries a part of {block.name}"
    if not is_controller:
        return None
    hidden = next((each for each in storage.uses if each.device is None and not each.pci_devices), None)
    if hidden is not None:
        return f"may carry {hidden.source}, in use as {hidden.purpose}, whose disks cannot be told"
    if not any(use.purpose == "mount /" for use in storage.uses):
        return "may carry the host's disks (what is mounted as / cannot be told)"
    return None


def _network(host: Host, device: PciDevice) -> str | None:
    network = host.network
    needed = {
        "the default route": network.default_route_interfaces,
        "an ssh connection": network.ssh_interfaces,
        "mounted network storage": network.storage_interfaces,
    }
    for what, names in needed.items():
        for name in names:
            interface = network.interfaces.get(name)
            if interface is not None and device.bdf in interface.pci_devices:
                return f"carries {what} (interface {name})"
            if name in device.interfaces:
                return f"carries {what} (interface {name})"
    if (kind(device) or 0) >> 8 != _NETWORK:
        return None
    if not network.default_route_interfaces:
        return "may carry the host's network (no default route can be told)"
    for name in sorted({name for names in needed.values() for name in names}):
        found = network.interfaces.get(name)
        if found is None or not found.pci_devices:
            return f"may carry the host's network (what is under interface {name} cannot be told)"
    return None


def _system(device: PciDevice, vendor: str) -> str | None:
    code = kind(device)
    if code is None:
        return "may be anything (its class cannot be read)"
    if device.is_bridge:
        return None
    if is_nvswitch(device, vendor):
        return None
    if code >> 8 in _SYSTEM_BASE_CLASSES or code in _SYSTEM_CLASSES:
        return f"is a part of the system itself (class {code:04x})"
    return None
