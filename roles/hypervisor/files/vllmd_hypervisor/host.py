"""What this host has: memory, huge pages, privileges, programs, free ports. Readers of files take a root path."""

import os
import socket
from errno import EADDRINUSE
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit

from vllmd_hypervisor.errors import reason
from vllmd_hypervisor.memory import Memory
from vllmd_hypervisor.network import Network
from vllmd_hypervisor.quantity import KIB, about, format_size

_CAP_IPC_LOCK = 14


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """Return /proc/meminfo in bytes (counters without a unit are kept as they are)."""
    values = {}
    with (root / "proc/meminfo").open(encoding="ascii") as lines:
        for line in lines:
            key, rest = line.split(":", 1)
            number, unit = [*rest.split(), ""][:2]
            values[key] = int(number) * (KIB if unit == "kB" else 1)
    return values


def memory_problems(memory: Memory, root: Path = Path("/")) -> list[str]:
    """Return why this host cannot give a guest that memory, one sentence each."""
    have = meminfo(root)
    if memory.size > have["MemTotal"]:
        return [f"size={format_size(memory.size)} is more than this host's memory ({about(have['MemTotal'])})"]
    if not memory.hugepages:
        return []
    page = memory.hugepage_size or have.get("Hugepagesize", 0)
    if not page:
        return ["hugepages=on, but this host's kernel has no huge pages"]
    pool = root / "sys/kernel/mm/hugepages" / f"hugepages-{page // KIB}kB"
    try:
        free = int((pool / "free_hugepages").read_text(encoding="ascii"))
    except FileNotFoundError:
        pools = [entry.name for entry in pool.parent.glob("hugepages-*kB")]
        sizes = sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * KIB for name in pools)
        offered = ", ".join(map(format_size, sizes)) or "none"
        return [f"hugepage_size={format_size(page)} is not a size this host has ({offered})"]
    if memory.size % page:
        return [f"size={format_size(memory.size)} is not a multiple of the huge page size {format_size(page)}"]
    needed = memory.size // page
    if needed > free:
        return [
            f"size={format_size(memory.size)} needs {needed} huge pages of {format_size(page)}, {free} are free; "
            f"raise {pool / 'nr_hugepages'} or take hugepages=on away"
        ]
    return []


def pinning_problem(memory: Memory, root: Path = Path("/")) -> str:
    """Return why VFIO could not pin all of a guest's memory, or an empty string."""
    limit = getrlimit(RLIMIT_MEMLOCK)[0]
    if limit == RLIM_INFINITY or limit > memory.size or _has_capability(_CAP_IPC_LOCK, root):
        return ""
    return (
        f"device passthrough pins all {format_size(memory.size)} of guest memory, the limit of locked memory is "
        f"{about(limit)}; set LimitMEMLOCK=infinity in the unit or raise `ulimit -l`"
    )


def _has_capability(number: int, root: Path) -> bool:
    for line in (root / "proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def find_program(name: str, path: str) -> Path | None:
    """Return the first executable file of that name in a PATH-like list of directories."""
    for directory in path.split(os.pathsep):
        candidate = Path(directory or ".") / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    return None


def forward_problems(network: Network) -> list[str]:
    """Return which forwarded host ports cannot be listened on now, one sentence each."""
    problems = []
    for forward in network.forwards:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((forward.host_address, forward.host_port))
                probe.listen(1)
            except OSError as error:
                what = "another program listens there" if error.errno == EADDRINUSE else reason(error)
                place = f"{forward.host_address}:{forward.host_port}"
                problems.append(f"cannot forward {place}: {what}; choose another port")
    return problems
