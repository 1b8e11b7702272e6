"""What kind of file the guest boots, told by its content.

Sources: Linux Documentation/arch/x86/boot.rst (setup header), xen/include/public/elfnote.h (PVH entry note), the x86
reset vector (16 bytes below 4 GiB, so the last 16 bytes of a firmware image), UEFI PI firmware volume header.
"""

from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import BinaryIO

from vllmd_hypervisor.errors import ValueProblem, reason
from vllmd_hypervisor.quantity import MIB

PVH_ELF = "pvh-elf"
BZIMAGE = "bzimage"
FIRMWARE = "firmware"

_ELF_MAGIC = b"\x7fELF"
_ELF_CLASS_64, _ELF_LITTLE_ENDIAN, _ELF_MACHINE_X86_64 = 2, 1, 62
_ELF_HEADER = Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = Struct("<IIQQQQQQ")
_NOTE_HEADER = Struct("<III")
_PT_NOTE = 4
_XEN_ELFNOTE_PHYS32_ENTRY = 18
_NOTES_LIMIT = MIB

_BOOT_FLAG_OFFSET, _BOOT_FLAG = 0x1FE, b"\x55\xaa"
_SETUP_MAGIC_OFFSET, _SETUP_MAGIC = 0x202, b"HdrS"
_LOADED_HIGH_OFFSET = 0x211

_FIRMWARE_LIMIT = 64 * MIB
_FIRMWARE_GRANULE = 4096
_FIRMWARE_VOLUME_OFFSET, _FIRMWARE_VOLUME = 0x28, b"_FVH"
_RESET_VECTOR_SIZE = 16
# First instructions at the reset vector: SeaBIOS (far jump), qboot and coreboot (near jump), OVMF (nop or mode test).
_RESET_VECTOR_STARTS = (b"\xea", b"\xe9", b"\xeb", b"\x90\x90", b"\xfa", b"\x0f\x20", b"\x0f\x09")


def kernel_kind(path: Path) -> str:
    """Return PVH_ELF, BZIMAGE or FIRMWARE; ValueProblem when the file is none of them, OSError when unreadable."""
    with path.open("rb") as file:
        head = file.read(0x400)
        if head.startswith(_ELF_MAGIC):
            return _elf_kind(file)
        if _at(head, _BOOT_FLAG_OFFSET, _BOOT_FLAG) and _at(head, _SETUP_MAGIC_OFFSET, _SETUP_MAGIC):
            if not head[_LOADED_HIGH_OFFSET] & 1:
                raise ValueProblem("is a zImage, which loads below 1 MiB; build a bzImage")
            return BZIMAGE
        if _looks_like_firmware(file, head):
            return FIRMWARE
    raise ValueProblem("is neither a bzImage, nor an ELF kernel with a PVH entry, nor raw x86 firmware")


def _at(data: bytes, offset: int, expected: bytes) -> bool:
    return data[offset : offset + len(expected)] == expected


def _elf_kind(file: BinaryIO) -> str:
    file.seek(0)
    try:
        header = _ELF_HEADER.unpack(file.read(_ELF_HEADER.size))
        ident, machine, table_offset, entry_size, entries = header[0], header[2], header[5], header[9], header[10]
        if ident[4] != _ELF_CLASS_64 or ident[5] != _ELF_LITTLE_ENDIAN or machine != _ELF_MACHINE_X86_64:
            raise ValueProblem("is an ELF file, but not for x86-64")
        for index in range(entries):
            file.seek(table_offset + index * entry_size)
            header = _PROGRAM_HEADER.unpack(file.read(_PROGRAM_HEADER.size))
            kind, offset, size = header[0], header[2], header[5]
            if kind == _PT_NOTE:
                file.seek(offset)
                if _has_pvh_note(file.read(min(size, _NOTES_LIMIT))):
                    return PVH_ELF
    except (StructError, OverflowError, OSError):
        raise ValueProblem("is an ELF file cut short or damaged") from None
    raise ValueProblem("is an ELF file without a PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build it with CONFIG_PVH=y")


def _has_pvh_note(notes: bytes) -> bool:
    position = 0
    while position + _NOTE_HEADER.size <= len(notes):
        name_size, content_size, kind = _NOTE_HEADER.unpack_from(notes, position)
        name_start = position + _NOTE_HEADER.size
        if kind == _XEN_ELFNOTE_PHYS32_ENTRY and notes[name_start : name_start + name_size].rstrip(b"\0") == b"Xen":
            return True
        position = name_start + _padded(name_size) + _padded(content_size)
    return False


def _padded(size: int) -> int:
    return size + -size % 4


def _looks_like_firmware(file: BinaryIO, head: bytes) -> bool:
    size = file.seek(0, 2)
    if not 0 < size <= _FIRMWARE_LIMIT or size % _FIRMWARE_GRANULE:
        return False
    if _at(head, _FIRMWARE_VOLUME_OFFSET, _FIRMWARE_VOLUME):
        return True
    file.seek(-_RESET_VECTOR_SIZE, 2)
    return file.read().startswith(_RESET_VECTOR_STARTS)


def check_kernel(variable: str, path: Path) -> str:
    """Return the kernel's kind; ValueProblem is a whole sentence that names the variable and the file."""
    try:
        return kernel_kind(path)
    except OSError as error:
        raise ValueProblem(f"{variable}: cannot read {path}: {reason(error)}") from None
    except ValueProblem as problem:
        raise ValueProblem(f"{variable}: {path} {problem}") from None
