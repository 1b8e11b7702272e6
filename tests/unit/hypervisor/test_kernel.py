"""Kernels, firmware and disk images are told by their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.boot_files import OTHER_NOTE, PVH_NOTE, bzimage, elf, firmware, qcow2, write
from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.image import inspect_image
from vllmd_hypervisor.kernel import BZIMAGE, FIRMWARE, PVH_ELF, check_kernel, kernel_kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (bzimage(), BZIMAGE),
        (elf(PVH_NOTE), PVH_ELF),
        (elf(OTHER_NOTE + PVH_NOTE), PVH_ELF),
        (firmware(), FIRMWARE),
        (bytes(0x28) + b"_FVH" + bytes(0x10000 - 0x2C), FIRMWARE),
    ],
)
def test_told_by_content(data: bytes, kind: str, tmp_path: Path) -> None:
    assert kernel_kind(write(tmp_path / "any-name", data)) == kind


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is neither a bzImage"),
        (b"#!/bin/sh\n", "is neither a bzImage"),
        (bytes(0x10000), "is neither a bzImage"),
        (bzimage()[:0x200], "is neither a bzImage"),
        (bzimage(loaded_high=False), "is a zImage"),
        (elf(OTHER_NOTE), "without a PVH entry note"),
        (elf(b""), "without a PVH entry note"),
        (elf(PVH_NOTE, machine=183), "not for x86-64"),
        (elf(PVH_NOTE)[:70], "cut short or damaged"),
        (elf(PVH_NOTE, program_headers=0), "without a PVH entry note"),
        (b"\x7fELF", "cut short or damaged"),
        (firmware()[1:], "is neither a bzImage"),
    ],
)
def test_refused(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueProblem) as caught:
        check_kernel("KERNEL", write(tmp_path / "kernel", data))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"KERNEL: {tmp_path}/kernel ")


def test_a_kernel_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueProblem, match=r"cannot read .*: No such file or directory"):
        check_kernel("KERNEL", tmp_path / "missing")
    with pytest.raises(ValueProblem, match=r"cannot read .*: Is a directory"):
        check_kernel("KERNEL", tmp_path)


@pytest.mark.parametrize(
    ("data", "kind"), [(bytes(512), "raw"), (qcow2(), "qcow2"), (qcow2(version=2), "qcow2"), (bzimage(), "raw")]
)
def test_image_kind(data: bytes, kind: str, tmp_path: Path) -> None:
    image = inspect_image(write(tmp_path / "disk", data), readonly=True)
    assert (image.format, image.block_device, image.readonly) == (kind, False, True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (bytes(513), "not whole 512-byte sectors"),
        (qcow2()[:40], "cut short"),
        (qcow2(version=1), "QCOW image of version 1"),
        (qcow2(backing_offset=512), "has a backing file"),
        (qcow2(incompatible=4), "keeps its data in another file"),
        (b"KDMV" + bytes(508), "is a VMDK image; convert it"),
        (b"vhdxfile" + bytes(504), "is a VHDX image; convert it"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe" + bytes(444), "is a VDI image; convert it"),
    ],
)
def test_image_refused(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueProblem) as caught:
        inspect_image(write(tmp_path / "disk", data), readonly=False)
    assert words in str(caught.value)


def test_an_image_must_be_a_file_or_a_block_device(tmp_path: Path) -> None:
    with pytest.raises(ValueProblem, match="neither a regular file nor a block device"):
        inspect_image(tmp_path, readonly=True)
    with pytest.raises(ValueProblem, match="neither a regular file nor a block device"):
        inspect_image(Path("/dev/null"), readonly=False)
