"""C compiler for Triton's launchers, as /usr/lib/vllmd/cc of a CUDA image: tcc with what it lacks for this one purpose.

Triton makes a small C extension for every kernel signature that it meets while it serves, by a command made for gcc
(triton/runtime/build.py). gcc with its headers would be 200 MB in the image; tcc is one. Around it this program

* finds libraries that are named `-l:FILE`, which tcc's linker does not know;
* uses the few headers that the build collected, and none of the C library's start files, which an extension does
  without;
* leaves out Python's atomics (`pyatomic.h` knows no tcc), which extensions use in free-threaded Python only;
* adds the program header PT_GNU_STACK to the result: without it the loader takes the extension for one that needs an
  executable stack, and glibc 2.41 refuses that.

It is called as `cc SOURCE.c ... -o FILE ...`; the exit status is tcc's. Standard library only.
"""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

HEADERS = Path("/usr/lib/vllmd/include")
SYSTEM_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
#: ELF-64: program header table's offset, size of an entry and their number; an entry. /usr/include/elf.h.
PHOFF = struct.Struct("<Q")
PHENT = struct.Struct("<HH")
PHDR = struct.Struct("<IIQQQQQQ")
PHOFF_AT, PHENT_AT = 32, 54
PT_GNU_STACK, READ_WRITE = 0x6474E551, 6


def libraries(arguments: list[str]) -> list[str]:
    """Return the arguments with `-l:FILE` replaced by the file's path, looked for as a linker would."""
    places = [word[2:] for word in arguments if word.startswith("-L")] + [SYSTEM_LIBRARIES]
    found = []
    for word in arguments:
        if not word.startswith("-l:"):
            found.append(word)
            continue
        paths = [Path(place, word[3:]) for place in places]
        found.append(str(next((path for path in paths if path.exists()), paths[-1])))
    return found


def output(arguments: list[str]) -> Path | None:
    """Return the file that the command makes, or None when it names none."""
    for word, following in itertools.pairwise(arguments):
        if word == "-o":
            return Path(following)
    return None


def without_executable_stack(path: Path) -> None:
    """Give the shared object ``path`` a PT_GNU_STACK that is readable and writable; the table moves to the end."""
    content = bytearray(path.read_bytes())
    (offset,) = PHOFF.unpack_from(content, PHOFF_AT)
    size, count = PHENT.unpack_from(content, PHENT_AT)
    table = bytes(content[offset : offset + size * count])
    kinds = [PHDR.unpack_from(table, index * size)[0] for index in range(count)]
    if size != PHDR.size or PT_GNU_STACK in kinds:
        return
    content += bytes(-len(content) % 8)
    PHOFF.pack_into(content, PHOFF_AT, len(content))
    PHENT.pack_into(content, PHENT_AT, size, count + 1)
    path.write_bytes(bytes(content) + table + PHDR.pack(PT_GNU_STACK, READ_WRITE, 0, 0, 0, 0, 0, 16))


def main(arguments: list[str]) -> int:
    """Compile; return tcc's exit status."""
    headers = [f"-I{path}" for path in (HEADERS / "python", HEADERS / "x86_64-linux-gnu", HEADERS)]
    own = ["-nostdinc", "-nostdlib", f"-I{SYSTEM_LIBRARIES}/tcc/include", "-DPy_ATOMIC_H"]
    support = [f"{SYSTEM_LIBRARIES}/tcc/libtcc1.a"]
    # Triton's own -I come first: cuda.h is there.
    status = subprocess.run(["/usr/bin/tcc", *own, *libraries(arguments), *headers, *support], check=False).returncode
    made = output(arguments)
    if status == 0 and made and "-shared" in arguments:
        without_executable_stack(made)
    return status


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
