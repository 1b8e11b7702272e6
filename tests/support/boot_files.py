"""Small files that look like kernels, firmware and disk images to whoever reads their headers."""

from __future__ import annotations

import struct
from pathlib import Path

PVH_NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000000)
OTHER_NOTE = struct.pack("<III4s20s", 4, 20, 3, b"GNU\0", bytes(20))


def bzimage(*, loaded_high: bool = True) -> bytes:
    """Return 4 KiB with an x86 boot sector and setup header."""
    data = bytearray(4096)
    data[0x1F1] = 4
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    data[0x211] = 1 if loaded_high else 0
    return bytes(data)


def elf(notes: bytes, *, machine: int = 62, program_headers: int = 1) -> bytes:
    """Return an ELF64 file whose one program header is PT_NOTE over `notes`."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, program_headers, 0, 0, 0
    )
    program = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    return header + program + notes


def firmware() -> bytes:
    """Return 64 KiB that ends like SeaBIOS, in a far jump."""
    return bytes(0x10000 - 16) + b"\xea\x5b\xe0\x00\xf0" + bytes(11)


def qcow2(*, version: int = 3, backing_offset: int = 0, incompatible: int = 0) -> bytes:
    """Return a qcow2 header, enough to be told by."""
    head = struct.pack(">4sIQ", b"QFI\xfb", version, backing_offset) + bytes(56)
    return head + struct.pack(">Q", incompatible) + bytes(512 - len(head) - 8)


def write(path: Path, data: bytes) -> Path:
    """Write and return the path, so that calls nest."""
    path.write_bytes(data)
    return path
