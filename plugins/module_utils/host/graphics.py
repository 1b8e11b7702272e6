# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The host's own console: framebuffers, who sits in a display's BAR, which function the firmware drew on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .model import BarClaim, Framebuffer, Graphics, Pci, VtConsole
from .tree import Tree, bdfs_in, is_bdf, parse_integer

#: Names under which framebuffer drivers reserve a range that the firmware left a picture in (drivers/video, drm/sysfb).
_FRAMEBUFFER_NAMES = ("efifb", "vesafb", "simplefb", "simple-framebuffer", "simpledrm", "efidrm", "vesadrm", "BOOTFB")
_IOMEM = re.compile(r"^( *)([0-9a-f]+)-([0-9a-f]+) : (.*)$")


def read_graphics(tree: Tree, pci: Pci, iomem: str) -> Graphics:
    """Return the host's displays; ``iomem`` is the text of /proc/iomem."""
    claims = tuple(_claims(iomem))
    framebuffers = tuple(_framebuffers(tree, claims))
    marked = [device.bdf for device in pci.devices.values() if device.boot_vga]
    drawn = [framebuffer.bdf for framebuffer in framebuffers if framebuffer.bdf]
    candidates = [*marked, *drawn, *(claim.bdf for claim in claims)]
    return Graphics(
        boot_display=candidates[0] if candidates else None,
        framebuffers=framebuffers,
        claims=claims,
        vtconsoles=tuple(
            VtConsole(
                name,
                tree.word(f"sys/class/vtconsole/{name}/name"),
                tree.flag(f"sys/class/vtconsole/{name}/bind"),
            )
            for name in tree.names("sys/class/vtconsole")
        ),
        consoles=tuple((tree.text("sys/class/tty/console/active") or "").split()),
        connected=tuple(sorted(set(_connected(tree)))),
    )


def _framebuffers(tree: Tree, claims: tuple[BarClaim, ...]) -> Iterator[Framebuffer]:
    for line in tree.lines("proc/fb"):
        number, _space, name = line.partition(" ")
        index = parse_integer(number)
        if index is None:
            tree.trouble("proc/fb", f"found {line[:40]!r}, expected a number and a name")
            continue
        bdfs = bdfs_in(tree.link_path(f"sys/class/graphics/fb{index}") or "")
        # The firmware's own framebuffers are platform devices: only the range they reserve tells whose memory it is.
        firmware = bdfs or tuple(claim.bdf for claim in claims)
        yield Framebuffer(index, name, firmware[-1] if firmware else None)


def _claims(iomem: str) -> Iterator[BarClaim]:
    """Yield framebuffers' names nested below a function's range."""
    owners: list[tuple[int, str]] = []
    for line in iomem.splitlines():
        match = _IOMEM.match(line)
        if not match:
            continue
        depth, name = len(match[1]), match[4].strip()
        while owners and owners[-1][0] >= depth:
            owners.pop()
        if is_bdf(name):
            owners.append((depth, name))
        elif owners and name.startswith(_FRAMEBUFFER_NAMES):
            start, end = int(match[2], 16), int(match[3], 16)
            yield BarClaim(owners[-1][1], name, start, max(0, end - start + 1))


def _connected(tree: Tree) -> Iterator[str]:
    for name in tree.names("sys/class/drm"):
        if "-" in name and tree.word(f"sys/class/drm/{name}/status") == "connected":
            bdfs = bdfs_in(tree.link_path(f"sys/class/drm/{name}") or "")
            if bdfs:
                yield bdfs[-1]
