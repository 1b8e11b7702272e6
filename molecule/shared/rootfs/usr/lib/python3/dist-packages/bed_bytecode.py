"""Keep the bytecode of modules that lie in zip files, as every module of Ansible's does.

Python keeps none of it: each task compiles the same two hundred kilobytes of source, twice. On an emulated host that is
most of a task's time. What is kept is named after the source itself, so nothing ever has to be forgotten.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType

DIRECTORY = "/var/cache/bed-bytecode"
_compile = zipimport._compile_source


def compile_source(path: str, source: bytes) -> CodeType:
    """Return the code of a module, as zipimport does; errors are those of compile()."""
    name = _imp.source_hash(sys.hexversion, source).hex()
    kept = f"{DIRECTORY}/{name}-{len(source)}"
    try:
        with open(kept, "rb") as file:
            code: CodeType = marshal.loads(file.read())
            return code
    except (OSError, EOFError, ValueError, TypeError):
        code = _compile(path, source)
    partial = f"{kept}.{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            file.write(marshal.dumps(code))
        os.replace(partial, kept)
    except OSError:
        pass  # a user who may not write there, or a full disk
    return code


zipimport._compile_source = compile_source
