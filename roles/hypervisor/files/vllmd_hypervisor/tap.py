"""Tap interfaces by ioctl(2): make or join one, bring it up, put it on a bridge (linux/if_tun.h, linux/sockios.h)."""

import os
import socket
from errno import EBUSY
from fcntl import ioctl
from pathlib import Path
from struct import pack, unpack

from vllmd_hypervisor.errors import LaunchError, reason

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCBRADDIF = 0x8913, 0x8914, 0x89A2
_IFF_UP = 0x1


def open_tap(name: str, bridge: str, *, persistent: bool) -> tuple[int, bool]:
    """Return a descriptor of the tap, up and on its bridge, and whether it was made here. LaunchError says what failed.

    A tap that is not persistent goes away with its last descriptor, so it lives exactly as long as the VMM.
    """
    if bridge and not _exists(bridge):
        raise LaunchError(f"there is no bridge {bridge} on this host; make it first or take bridge={bridge} away")
    made = not _exists(name)
    descriptor = -1
    step = "open /dev/net/tun"
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        step = f"attach to tap {name}" if not made else f"make tap {name}"
        ioctl(descriptor, _TUNSETIFF, pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        if persistent and made:
            ioctl(descriptor, _TUNSETPERSIST, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            if bridge:
                step = f"put tap {name} on bridge {bridge}"
                _join_bridge(control, name, bridge)
            step = f"bring tap {name} up"
            _bring_up(control, name)
    except OSError as error:
        if descriptor >= 0:
            if persistent and made:
                ioctl(descriptor, _TUNSETPERSIST, 0)
            os.close(descriptor)
        raise LaunchError(f"cannot {step}: {reason(error)}") from None
    return descriptor, made


def remove_tap(name: str) -> None:
    """Remove a persistent tap made by open_tap; one that is gone or in use is left alone."""
    if not _exists(name):
        return
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        ioctl(descriptor, _TUNSETIFF, pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        ioctl(descriptor, _TUNSETPERSIST, 0)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _exists(name: str) -> bool:
    """Ask the kernel, not /sys, which may show another network namespace."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _join_bridge(control: socket.socket, name: str, bridge: str) -> None:
    try:
        ioctl(control, _SIOCBRADDIF, pack("16si20x", bridge.encode(), socket.if_nametoindex(name)))
    except OSError as error:
        master = Path("/sys/class/net", name, "master")
        if error.errno != EBUSY or not master.exists() or master.resolve().name != bridge:
            raise


def _bring_up(control: socket.socket, name: str) -> None:
    request = ioctl(control, _SIOCGIFFLAGS, pack("16sH22x", name.encode(), 0))
    flags = unpack("16sH22x", request)[1]
    if not flags & _IFF_UP:
        ioctl(control, _SIOCSIFFLAGS, pack("16sH22x", name.encode(), flags | _IFF_UP))
