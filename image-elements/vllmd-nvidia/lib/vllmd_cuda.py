"""Whether a driver runs what a CUDA build needs, by the table in cuda_compatibility.json.

Usage:
    vllmd_cuda.py check --driver VERSION [--lock FILE | --cuda X.Y] [--families NAMES] [--code ARCHITECTURES]
    vllmd_cuda.py firmware --families NAMES
    vllmd_cuda.py facts --driver VERSION --kernel-module open|proprietary --families NAMES [--cuda X.Y]

`check` prints one sentence and ends with status 1 when something does not fit, and prints nothing otherwise.
`firmware` prints the GSP firmware files that the families load, `facts` the image's field `nvidia` as JSON. The
builder's Python and the guest's run this, so it needs the standard library only.

Versions are compared number by number (`550.163.01` is 550, 163, 1). CUDA X.Y runs on every driver from
`oldest_driver[X]` on: that is CUDA's minor version compatibility, for which everything the engine loads is compiled for
its GPUs beforehand (what is shipped as PTX only would need a driver as new as its toolkit).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("cuda_compatibility.json")
#: The package of CUDA's runtime in a lock of torch: nvidia-cuda-runtime-cu12==12.8.90, since CUDA 13 without a suffix.
_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+)\.(\d+)", re.MULTILINE)
_VERSION = re.compile(r"\d+(\.\d+)*")


class CudaError(ValueError):
    """Why driver, CUDA and GPUs do not fit, or cannot be compared: one sentence with what to do."""


def table() -> dict[str, Any]:
    """Return the table, checked for nothing: it lies beside this file and has a unit test."""
    return dict(json.loads(TABLE.read_text(encoding="utf-8")))


def numbers(version: str) -> tuple[int, ...]:
    """Return ``550.163.01`` as (550, 163, 1), without what Debian adds (``550.163.01-2``). Raises CudaError."""
    found = _VERSION.match(version.rpartition(":")[2])
    if not found:
        raise CudaError(f"{version!r} is no version; a driver's looks like 550.163.01, CUDA's like 12.8")
    return tuple(int(part) for part in found[0].split("."))


def cuda_of_lock(text: str) -> str:
    """Return the CUDA version (``12.8``) that the torch of a pip lock is built for. Raises CudaError without one."""
    found = _RUNTIME.search(text)
    if not found:
        raise CudaError("the lock pins no nvidia-cuda-runtime, so its torch is no CUDA build; lock a torch that is one")
    return f"{found[1]}.{found[2]}"


def newest_cuda(driver: str) -> str:
    """Return the newest CUDA version (``12.4``) that the driver speaks by itself. Raises CudaError below the table."""
    known = [cuda for cuda, first in table()["toolkit_driver"].items() if numbers(driver) >= numbers(first)]
    if not known:
        raise CudaError(f"driver {driver} is older than every driver in {TABLE.name}; use a newer one")
    return str(max(known, key=numbers))


def check_cuda(driver: str, cuda: str) -> None:
    """Raise CudaError unless ``driver`` runs programs built for CUDA ``cuda`` (``12.8``)."""
    majors = table()["oldest_driver"]
    major = str(numbers(cuda)[0])
    if major not in majors:
        raise CudaError(
            f"CUDA {cuda} is not in {TABLE.name}, which knows {', '.join(majors)}; "
            "add its oldest driver there, with the source"
        )
    oldest = majors[major]
    if numbers(driver) < numbers(oldest):
        raise CudaError(
            f"NVIDIA driver {driver} cannot run torch's CUDA {cuda}: CUDA {major} needs driver {oldest} or newer; "
            "give a newer driver (DIB_VLLMD_NVIDIA_REPOSITORY) or a vLLM whose torch is built for CUDA "
            f"{numbers(newest_cuda(driver))[0]}"
        )


def families(names: str) -> list[str]:
    """Return the families in ``names``, in the table's order. Raises CudaError for none or an unknown one."""
    known = table()["families"]
    wanted = names.split()
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise CudaError(
            f"DIB_VLLMD_NVIDIA_FAMILIES={names!r} does not name GPU families alone; known are {', '.join(known)}"
        )
    return [name for name in known if name in wanted]


def check_families(driver: str, names: Sequence[str]) -> None:
    """Raise CudaError when ``driver`` is older than one of the GPU families."""
    for name in names:
        oldest = table()["families"][name]["driver"]
        if numbers(driver) < numbers(oldest):
            raise CudaError(
                f"NVIDIA driver {driver} does not know {name} GPUs, which need {oldest} or newer; give a newer driver "
                f"(DIB_VLLMD_NVIDIA_REPOSITORY) or take {name} out of DIB_VLLMD_NVIDIA_FAMILIES"
            )


def check_code(architectures: Iterable[str], names: Sequence[str]) -> None:
    """Raise CudaError when torch has no code for one of the families.

    ``architectures`` are torch's (``sm_80``, ``compute_120``). Code for compute capability X.Y runs on X.Z with Z >= Y
    (CUDA C++ Programming Guide, binary compatibility); PTX (``compute_``) does not count, see the module's head.
    """
    compiled = [numbers(name[3:-1] + "." + name[-1]) for name in architectures if re.fullmatch(r"sm_\d{2,3}", name)]
    for name in names:
        for capability in table()["families"][name]["compute"]:
            major, minor = numbers(capability)
            if not any(each[0] == major and each[1] <= minor for each in compiled):
                raise CudaError(
                    f"torch has no code for {name} GPUs (compute capability {capability}), only for "
                    f"{', '.join(sorted(set(architectures)))}; take {name} out of DIB_VLLMD_NVIDIA_FAMILIES or lock "
                    "another torch"
                )


def firmware(names: Sequence[str]) -> list[str]:
    """Return the GSP firmware files that the families load, sorted."""
    return sorted({each for name in names for each in table()["families"][name]["firmware"]})


def facts(driver: str, kernel_module: str, names: Sequence[str], cuda: str | None) -> dict[str, Any]:
    """Return the field ``nvidia`` of the image's facts; ``torch_cuda`` is there when an engine is."""
    found: dict[str, Any] = {
        "cuda_max": newest_cuda(driver),
        "driver": driver,
        "families": list(names),
        "kernel_module": kernel_module,
    }
    return found | ({"torch_cuda": cuda} if cuda else {})


def _cuda(options: argparse.Namespace) -> str | None:
    if options.lock:
        try:
            return cuda_of_lock(options.lock.read_text(encoding="utf-8"))
        except OSError as error:
            raise CudaError(f"cannot read the lock {options.lock}: {error.strerror}") from None
    return str(options.cuda) if options.cuda else None


def run(options: argparse.Namespace) -> None:
    """Carry out one call. Raises CudaError."""
    names = families(options.families)
    if options.verb == "firmware":
        print("\n".join(firmware(names)))
        return
    cuda = _cuda(options)
    if options.verb == "facts":
        print(json.dumps(facts(options.driver, options.kernel_module, names, cuda), sort_keys=True))
        return
    check_families(options.driver, names)
    if cuda:
        check_cuda(options.driver, cuda)
    if options.code:
        check_code(options.code.split(), names)


def main(arguments: Sequence[str]) -> int:
    """Parse ``arguments``; return the exit status."""
    parser = argparse.ArgumentParser(prog="vllmd_cuda.py")
    parser.add_argument("verb", choices=["check", "firmware", "facts"])
    parser.add_argument("--driver", default="")
    parser.add_argument("--families", default="")
    parser.add_argument("--kernel-module", choices=["open", "proprietary"], default="open")
    parser.add_argument("--code", default="")
    cuda = parser.add_mutually_exclusive_group()
    cuda.add_argument("--cuda", default="")
    cuda.add_argument("--lock", type=Path)
    try:
        run(parser.parse_args(arguments))
    except CudaError as error:
        print(f"vllmd-nvidia: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
