# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The files that keep a binding over reboots, as text; and putting them in place or taking them away.

Two mechanisms, both keyed by address and vendor:device. A udev rule sets driver_override as the device appears, in the
initramfs too, so that no loadable driver takes it. A unit early in the boot then binds whole groups (`boot`), takes
devices from drivers that are built into the kernel, and reads everything back.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from . import boot
from .record import Record, dump

HEADER = "# Written by vllmd.platform (role vfio); its state unbound removes it.\n"
RULES = "/etc/udev/rules.d/10-vllmd-vfio.rules"
NODE_RULES = "/etc/udev/rules.d/71-vllmd-vfio-nodes.rules"
MODPROBE = "/etc/modprobe.d/vllmd-vfio.conf"
MODULES_LOAD = "/etc/modules-load.d/vllmd-vfio.conf"
UNIT = "/etc/systemd/system/vllmd-vfio.service"
WANTS = "/etc/systemd/system/sysinit.target.wants/vllmd-vfio.service"
PROGRAM = "/usr/local/lib/vllmd/vllmd_vfio"
HOOK, DRACUT_CONF = "/etc/initramfs-tools/hooks/vllmd-vfio", "/etc/dracut.conf.d/vllmd-vfio.conf"
IN_INITRAMFS = (RULES, MODPROBE, HOOK, DRACUT_CONF)
INITRAMFS_TOOLS = ("initramfs-tools", "dracut")
_PACKAGE = __name__.rpartition(".")[0].rpartition(".")[0]
_PROGRAM_MODULES = ("atomic", "vfio.sysfs", "vfio.record", "vfio.binding", "vfio.boot")
# Every driver that may want an accelerator, whichever of them is installed later.
_VENDOR_MODULES = {
    "10de": ("nouveau", "nvidia", "nvidia_drm", "nvidiafb"),
    "1002": ("amdgpu", "radeon"),
    "8086": ("i915", "xe"),
}
_UNIT_TEXT = f"""{HEADER}[Unit]
Description=Give devices to vfio before their own drivers take them
DefaultDependencies=no
# After nothing: whatever waits for a disk would wait for udev, which waits for this.
Before=systemd-modules-load.service systemd-udev-trigger.service sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory={Path(PROGRAM).parent}
ExecStart=/usr/bin/python3 -B -s -S -m {Path(PROGRAM).name}.vfio.boot

[Install]
WantedBy=sysinit.target
"""
_HOOK_TEXT = f"""#!/bin/sh
{HEADER}set -e
if [ "$1" = prereqs ]; then
    exit 0
fi
. /usr/share/initramfs-tools/hook-functions
mkdir -p "$DESTDIR/etc/udev/rules.d"
cp -p {RULES} "$DESTDIR/etc/udev/rules.d/"
"""


@dataclass(frozen=True)
class File:
    """A file's text and permission bits; with ``link`` it is a symbolic link to that instead."""

    text: str = ""
    mode: int = 0o644
    link: str | None = None


@dataclass(frozen=True)
class Change:
    """One path before and after; None is a path that is not there."""

    path: str
    before: File | None
    after: File | None

    def diff(self) -> dict[str, Any]:
        """Return the change as Ansible shows it."""

        def text(file: File | None) -> str:
            return "" if file is None else f"link to {file.link}\n" if file.link else file.text

        return {
            "before": text(self.before),
            "after": text(self.after),
            "before_header": self.path if self.before else f"{self.path} (absent)",
            "after_header": self.path if self.after else f"{self.path} (absent)",
        }


def files(record: Record, node_group: str = "", initramfs: str | None = None) -> dict[str, File]:
    """Return every file that keeps the groups of ``record`` bound, by path; none for an empty record.

    ``node_group`` owns /dev/vfio/N where it is given. ``initramfs`` is the tool that makes it: initramfs-tools, dracut
    or None.
    """
    devices = sorted((device for group in record.groups for device in group.devices), key=lambda each: each.bdf)
    if not devices:
        return {}
    targets = sorted({each.target_module for each in devices})
    own = {each.module for each in devices if each.module and each.module not in targets}
    own |= {name for each in devices for name in _VENDOR_MODULES.get(each.identity[:4], ())}
    rules = "".join(
        f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{each.bdf}", ATTR{{vendor}}=="0x{each.identity[:4]}", '
        f'ATTR{{device}}=="0x{each.identity[5:]}", ATTR{{driver_override}}="{each.target}"\n'
        for each in devices
    )
    wanted = {
        boot.DEVICES_PATH: File(dump(Record(record.groups)), 0o644),
        RULES: File(HEADER + rules),
        MODPROBE: File(HEADER + "".join(f"softdep {name} pre: {' '.join(targets)}\n" for name in sorted(own))),
        MODULES_LOAD: File(HEADER + "".join(f"{name}\n" for name in targets)),
        UNIT: File(_UNIT_TEXT),
        WANTS: File(link=UNIT),
        **{f"{PROGRAM}/{path}": File(text) for path, text in _program().items()},
    }
    if node_group:
        given = f'GROUP="{node_group}", MODE="0660"\n'
        wanted[NODE_RULES] = File(f'{HEADER}SUBSYSTEM=="vfio", {given}SUBSYSTEM=="vfio-dev", {given}')
    if initramfs == "initramfs-tools":
        wanted[HOOK] = File(_HOOK_TEXT, 0o755)
    elif initramfs == "dracut":
        wanted[DRACUT_CONF] = File(f'{HEADER}install_items+=" {RULES} "\nadd_drivers+=" {" ".join(targets)} "\n')
    return wanted


def _program() -> dict[str, str]:
    """Return the sources of what runs at boot, by path: the very modules that bind now."""
    sources = {}
    for name in _PROGRAM_MODULES:
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        sources[f"{name.replace('.', '/')}.py"] = inspect.getsource(module)
    return sources


def changes(root: Path, wanted: dict[str, File]) -> list[Change]:
    """Return what must change below ``root`` so that of all our files exactly ``wanted`` are there."""
    ours = {boot.DEVICES_PATH, RULES, NODE_RULES, MODPROBE, MODULES_LOAD, UNIT, WANTS, HOOK, DRACUT_CONF}
    ours |= {f"{PROGRAM}/{name.replace('.', '/')}.py" for name in _PROGRAM_MODULES}
    ours |= {f"/{path.relative_to(root)}" for path in _below(root, PROGRAM).rglob("*") if not path.is_dir()}
    found = ((path, _read(_below(root, path)), wanted.get(path)) for path in sorted(ours))
    return [Change(path, before, after) for path, before, after in found if before != after]


def apply(root: Path, some: Iterable[Change]) -> None:
    """Carry out the changes, and remove the directories that are empty afterwards. Raises OSError.

    The link that starts the unit comes last and goes first, so a boot in between finds no half of it.
    """
    some = list(some)
    for change in sorted(some, key=lambda each: (each.path == WANTS) != (each.after is None)):
        path = _below(root, change.path)
        if change.after is None:
            path.unlink(missing_ok=True)
            continue
        atomic.make_directory(path.parent)
        if change.after.link:
            atomic.write_link(path, change.after.link)
        else:
            atomic.write_file(path, change.after.text.encode(), change.after.mode)
    for directory in (f"{PROGRAM}/vfio", PROGRAM, str(Path(PROGRAM).parent), "/etc/vllmd/vfio", "/etc/vllmd"):
        place = _below(root, directory)
        if any(change.after is None for change in some) and place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _read(path: Path) -> File | None:
    if path.is_symlink():
        return File(link=str(path.readlink()))
    try:
        return File(path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mode & 0o7777)
    except FileNotFoundError:
        return None
