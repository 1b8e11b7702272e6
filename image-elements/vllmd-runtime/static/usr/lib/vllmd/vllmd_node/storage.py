"""The cache disk: a second disk that keeps models and compiled kernels from one start to the next.

It is an ext4 file system labelled VLLMD_CACHE. A disk that holds anything else is never touched; a blank one that the
launcher attached as the cache is formatted when the runtime asks for it.
"""
# Run by configure.py early at boot, where each import costs:
# ruff: noqa: PTH103, PTH108, PTH110, PTH112, PTH118, PTH123, PTH208

from __future__ import annotations

import os

LABEL = "VLLMD_CACHE"
WARMED = "/var/lib/vllmd/cache/vllm"
SERIAL = "cache"  # what the launcher calls the disk
MOUNT_POINT = "/var/lib/vllmd/disk"

READY, BLANK, FOREIGN = "ready", "blank", "foreign"
# fs/ext4/ext4.h: the superblock begins at 1024; offsets in it of magic, state and volume name.
_SUPERBLOCK, _MAGIC, _STATE, _NAME = 1024, 56, 58, 120
_EXT4 = b"\x53\xef"
_HAS_ERRORS = 2
_EDGE = 1024 * 1024
_MS_NOSUID, _MS_NODEV, _MS_NOATIME = 2, 4, 1024  # mount(2); not noexec: compiled kernels are libraries
_SMALLEST_FREE = 256 * 1024 * 1024

#: What lies on the disk: directory, and the variable that names it to vLLM and its libraries.
MODELS = {"huggingface": "HF_HOME"}
_DOWNLOADS = ("huggingface", "hub")  # where huggingface_hub keeps files that it has not fetched to their end
COMPILED = {"vllm": "VLLM_CACHE_ROOT", "inductor": "TORCHINDUCTOR_CACHE_DIR", "triton": "TRITON_CACHE_DIR"}


class CacheError(Exception):
    """The cache disk cannot be used; the message is one sentence for a person."""


class Disk:
    """A disk that is, or was meant to be, the cache: ``path``, ``state``, and ``detail`` in words."""

    def __init__(self, path: str, state: str, detail: str = "", has_errors: bool = False) -> None:
        self.path = path
        self.state = state
        self.detail = detail
        self.has_errors = has_errors


def find(devices: str = "/sys/class/block", nodes: str = "/dev") -> Disk | None:
    """Return the cache disk; one with the label before one that only the launcher calls so. None when there is none."""
    named = None
    for name in sorted(os.listdir(devices)):
        if name.startswith(("loop", "ram", "zram")):
            continue
        path = os.path.join(nodes, name)
        meant = _read(os.path.join(devices, name, "serial")) == SERIAL
        try:
            found = inspect(path)
        except OSError as error:
            if meant:
                named = Disk(path, FOREIGN, f"it cannot be read: {error.strerror}")
            continue
        if found.state == READY:
            return found
        if meant:
            named = found
    return named


def inspect(path: str) -> Disk:
    """Return what the disk holds: the cache, nothing at all, or something else."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(descriptor, _EDGE, 0)
        superblock = head[_SUPERBLOCK : _SUPERBLOCK + 1024]
        if superblock[_MAGIC : _MAGIC + 2] == _EXT4:
            label = superblock[_NAME : _NAME + 16].rstrip(b"\0").decode("utf-8", "replace")
            errors = bool(int.from_bytes(superblock[_STATE : _STATE + 2], "little") & _HAS_ERRORS)
            if label == LABEL:
                return Disk(path, READY, has_errors=errors)
            return Disk(path, FOREIGN, f"it holds a file system with the label {label!r} instead of {LABEL}")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        edge = os.pread(descriptor, _EDGE, max(0, size - _EDGE))
    finally:
        os.close(descriptor)
    if head.strip(b"\0") or edge.strip(b"\0"):
        return Disk(path, FOREIGN, f"it holds something that is no ext4 file system labelled {LABEL}")
    return Disk(path, BLANK, "it is blank")


def attach(disk: Disk | None, wanted: dict[str, bool], owner: int, target: str = MOUNT_POINT) -> dict[str, str]:
    """Mount the cache disk and return the environment that puts it to use; the reason in words when it cannot be used.

    ``wanted`` are the runtime's ``format`` and ``required``. Without a disk and without a wish for one this does
    nothing. Raises CacheError when the runtime requires a cache that cannot be had; otherwise says on the console why
    the guest runs without.
    """
    if disk is None and not wanted:
        return {}
    try:
        if disk is None:
            raise CacheError(f"no disk with the label {LABEL} is attached")
        if disk.state == BLANK and wanted.get("format"):
            _make(disk.path)
            disk = Disk(disk.path, READY)
        if disk.state != READY:
            advice = "set storage.cache.format to have it formatted" if disk.state == BLANK else "attach another disk"
            raise CacheError(f"{disk.path} is not used: {disk.detail}; {advice}")
        _mount(disk, target)
        return _use(target, owner)
    except CacheError as error:
        if wanted.get("required"):
            raise
        print(f"vllmd: cache disk: {error}; caches are in memory and end with this boot", flush=True)
        return {}


def _make(path: str) -> None:
    arguments = ["mkfs.ext4", "-q", "-F", "-L", LABEL, "-m", "0", "-E", "lazy_itable_init=1,nodiscard", path]
    if _run("/usr/sbin/mkfs.ext4", arguments) != 0:
        raise CacheError(f"{path} cannot be formatted; see the lines above")
    print(f"vllmd: cache disk: {path} was blank and is formatted", flush=True)


def _mount(disk: Disk, target: str) -> None:
    os.makedirs(target, mode=0o755, exist_ok=True)
    if os.path.ismount(target):
        return
    # preen repairs what needs no decision; 0 and 1 are fine, and then the mount says whether it is.
    if disk.has_errors and _run("/usr/sbin/e2fsck", ["e2fsck", "-p", disk.path]) > 1:
        raise CacheError(f"{disk.path} is damaged; repair it with e2fsck or make it anew")
    import ctypes  # noqa: PLC0415 -- not needed without a disk

    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOATIME
    if libc.mount(disk.path.encode(), target.encode(), b"ext4", flags, b"errors=remount-ro") != 0:
        raise CacheError(f"{disk.path} cannot be mounted: {os.strerror(ctypes.get_errno())}; make it anew")


def _use(target: str, owner: int) -> dict[str, str]:
    """Make the directories for ``owner`` and return their variables. A disk that stays full is still read from."""
    variables = dict(MODELS)
    if _free(target) < _SMALLEST_FREE:
        _empty(target)
    free = _free(target)
    if free < _SMALLEST_FREE:
        space = os.statvfs(target)
        size = space.f_blocks * space.f_frsize
        print(
            f"vllmd: cache disk: too little room ({free >> 20} of {size >> 20} MiB free, {_SMALLEST_FREE >> 20} MiB "
            "needed): models on it are used, "
            "compiled code is kept in memory; make it larger or delete models from it",
            flush=True,
        )
    else:
        variables.update(COMPILED)
    environment = {}
    try:
        for name, variable in variables.items():
            directory = os.path.join(target, name)
            os.makedirs(directory, mode=0o750, exist_ok=True)
            os.chown(directory, owner, owner)
            environment[variable] = directory
        if "vllm" in variables:
            _copy_missing(WARMED, os.path.join(target, "vllm"), owner)
    except OSError as error:
        raise CacheError(f"{error.filename} cannot be made: {error.strerror}") from error
    return environment


def _free(target: str) -> int:
    """Return the bytes that its users may still write."""
    space = os.statvfs(target)
    return space.f_bavail * space.f_frsize


def _empty(target: str) -> None:
    """Remove from a full disk what the engine makes again by itself: compiled code, and downloads that did not end."""
    import shutil  # noqa: PLC0415 -- only a full disk needs it

    compiled = [os.path.join(target, name) for name in COMPILED if os.path.isdir(os.path.join(target, name))]
    broken = [
        os.path.join(directory, name)
        for directory, _names, files in os.walk(os.path.join(target, *_DOWNLOADS))
        for name in files
        if name.endswith(".incomplete")
    ]
    if not compiled and not broken:
        return
    before = _free(target)
    try:
        for path in compiled:
            shutil.rmtree(path)
        for path in broken:
            os.unlink(path)
    except OSError as error:
        raise CacheError(f"it is full, and {error.filename} cannot be removed: {error.strerror}") from error
    freed = (_free(target) - before) >> 20
    print(f"vllmd: cache disk: it was full; compiled code and broken downloads are removed ({freed} MiB)", flush=True)


def _copy_missing(source: str, target: str, owner: int) -> None:
    """Copy what the image's build put into vLLM's cache: what it knows of the image's models, a few KiB."""
    if not os.path.isdir(source):
        return
    os.makedirs(target, mode=0o750, exist_ok=True)
    os.chown(target, owner, owner)
    for name in os.listdir(source):
        old, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(old):
            _copy_missing(old, new, owner)
        elif not os.path.exists(new):
            with open(old, "rb") as stream:
                content = stream.read()
            with open(new, "wb") as stream:
                stream.write(content)
            os.chown(new, owner, owner)


def _run(program: str, arguments: list[str]) -> int:
    """Run a program and return its exit status; subprocess alone would cost more than the rest of this file."""
    try:
        return os.spawnv(os.P_WAIT, program, arguments)  # noqa: S606 -- fixed programs, a disk's path
    except OSError as error:
        raise CacheError(f"cannot run {program}: {error.strerror}") from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(256).strip("\0\n ")
    except OSError:
        return ""
