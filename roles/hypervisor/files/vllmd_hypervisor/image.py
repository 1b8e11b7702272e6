"""What kind of disk image a file holds, told by its content, so that no VMM guesses (guests can fake a header)."""

import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISBLK, S_ISREG
from struct import unpack_from

from vllmd_hypervisor.errors import ValueProblem

RAW = "raw"
QCOW2 = "qcow2"

_QCOW2_MAGIC = b"QFI\xfb"
_FOREIGN = {b"KDMV": "VMDK", b"vhdxfile": "VHDX", b"conectix": "VHD", b"COWD": "VMDK", b"QED\0": "QED"}
_VDI_OFFSET, _VDI_MAGIC = 0x40, b"\x7f\x10\xda\xbe"
_EXTERNAL_DATA_FILE = 1 << 2  # qcow2 incompatible feature bit 2
_SECTOR = 512


@dataclass(frozen=True)
class Image:
    """A disk image: where it is, `raw` or `qcow2`, and whether it is a block device instead of a file."""

    path: Path
    format: str
    block_device: bool
    readonly: bool


def inspect_image(path: Path, *, readonly: bool) -> Image:
    """Open an image as the VMM will and tell its kind; ValueProblem or OSError when it cannot serve as a disk."""
    descriptor = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not S_ISREG(mode) and not S_ISBLK(mode):
            raise ValueProblem("is neither a regular file nor a block device")
        head = os.pread(descriptor, 112, 0)
        size = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    return Image(path, _format(head, size), S_ISBLK(mode), readonly)


def _format(head: bytes, size: int) -> str:
    if head.startswith(_QCOW2_MAGIC):
        _check_qcow2(head)
        return QCOW2
    foreign = next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None)
    if head[_VDI_OFFSET:].startswith(_VDI_MAGIC):
        foreign = "VDI"
    if foreign:
        raise ValueProblem(f"is a {foreign} image; convert it: qemu-img convert -O raw")
    if size == 0:
        raise ValueProblem("is empty")
    if size % _SECTOR:
        raise ValueProblem(f"has {size} bytes, not whole {_SECTOR}-byte sectors; it is cut short or no disk image")
    return RAW


def _check_qcow2(head: bytes) -> None:
    """Refuse what would let an image point the VMM at other files of the host (images are not trusted)."""
    if len(head) < 72:
        raise ValueProblem("is a qcow2 image cut short")
    version, backing_offset = unpack_from(">IQ", head, 4)
    if version not in (2, 3):
        raise ValueProblem(f"is a QCOW image of version {version}; convert it: qemu-img convert -O qcow2")
    if backing_offset:
        raise ValueProblem("has a backing file, which could be any file here; flatten it: qemu-img convert -O qcow2")
    if version == 3 and len(head) >= 80 and unpack_from(">Q", head, 72)[0] & _EXTERNAL_DATA_FILE:
        raise ValueProblem("keeps its data in another file; convert it: qemu-img convert -O qcow2")
