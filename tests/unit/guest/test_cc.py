"""What the launchers' compiler adds around tcc: libraries by file name, and a stack that is not executable."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ELEMENTS, load

PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551


@pytest.fixture(scope="module")
def cc() -> ModuleType:
    return load(ELEMENTS / "vllmd-vllm/lib/vllmd_cc.py")


def elf(*kinds: int) -> bytes:
    """An ELF-64 file of a header, one program header for each kind and some odd bytes, as tcc lays it out."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(kinds))
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 5, 0, 0, 0, 1, 1, 8) for kind in kinds)
    return bytes(header) + table + b"code!"


def headers(content: bytes) -> list[tuple[int, ...]]:
    (offset,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    return [struct.unpack_from("<IIQQQQQQ", content, offset + index * size) for index in range(count)]


def test_a_stack_header_is_added_and_the_others_stay(cc: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "launcher.so"
    path.write_bytes(elf(PT_LOAD, PT_LOAD, PT_DYNAMIC))
    before = headers(path.read_bytes())
    cc.without_executable_stack(path)
    content = path.read_bytes()
    assert headers(content)[:-1] == before
    kind, flags, *_rest = headers(content)[-1]
    assert (kind, flags) == (PT_GNU_STACK, 6), "readable and writable"
    assert struct.unpack_from("<Q", content, 32)[0] % 8 == 0, "the table is aligned"
    assert b"code!" in content
    cc.without_executable_stack(path)
    assert path.read_bytes() == content, "once is enough"


def test_a_library_by_file_name_is_found_where_a_linker_looks(cc: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/libcuda.so.1").touch()
    given = ["a.c", f"-L{tmp_path}", f"-L{tmp_path}/here", "-l:libcuda.so.1", "-lm", "-l:libgone.so", "-o", "a.so"]
    assert cc.libraries(given) == [
        "a.c",
        f"-L{tmp_path}",
        f"-L{tmp_path}/here",
        f"{tmp_path}/here/libcuda.so.1",
        "-lm",
        "/usr/lib/x86_64-linux-gnu/libgone.so",
        "-o",
        "a.so",
    ]
    assert cc.output(given) == Path("a.so")
    assert cc.output(["a.c"]) is None
