"""Compile all Python sources below a directory, the same bytes in every build, with all cores.

Byte code depends a little on what its interpreter compiled before: a string that something else refers to is written
differently. So each file is compiled in a process whose past is fixed: groups of files, as many on every machine, each
in a child of the same fresh parent. Unchecked: nobody edits a source in a read-only image, so Python need not look at
every source file again at each import.

Usage: vllmd_compile.py DIRECTORY
"""

from __future__ import annotations

import os
import py_compile
import sys
from pathlib import Path

GROUPS = 48


def compile_group(paths: list[str]) -> None:
    """Compile ``paths``; what is no Python of this version (a template, an example) stays as it is."""
    for path in paths:
        try:
            py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        except (py_compile.PyCompileError, UnicodeDecodeError, ValueError) as error:
            print(f"vllmd-vllm: not compiled: {path} ({type(error).__name__})", flush=True)


def main(directory: Path) -> int:
    """Compile everything below ``directory``; return the exit status."""
    sources = sorted(str(path) for path in directory.rglob("*.py") if path.is_file())
    tokens, give = os.pipe()
    os.write(give, b"." * (os.cpu_count() or 1))
    children = []
    for number in range(GROUPS):
        child = os.fork()
        if child == 0:
            os.read(tokens, 1)
            status = 1
            try:
                compile_group(sources[number::GROUPS])
                status = 0
            finally:
                os.write(give, b".")
                os._exit(status)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    print(f"vllmd-vllm: compiled {len(sources)} sources")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
