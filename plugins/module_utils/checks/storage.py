# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is there room for images, on a disk fast and sound enough to serve them?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import GIB, gib, join
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Filesystem, Host

_LASTING = ("ext4", "xfs", "btrfs", "zfs", "f2fs")
_VOLATILE = ("tmpfs", "ramfs", "overlay", "aufs")
_VIRTUAL_DISKS = ("vd", "xvd")
_MIN_INODES = 10000


def _images(host: Host, policy: Policy) -> Filesystem | None:
    """Return the file system of the image directory."""
    return next((item for item in host.storage.filesystems if item.asked_path == policy.image_directory), None)


@check(
    "image-space",
    "storage",
    "There is room for guest images",
    why="An image is built beside the one in use and published by a rename, so both must fit; a full disk stops "
    "all runtimes' logs, too.",
    reference="policy keys image_directory, minimum_image_gib",
)
def image_space(host: Host, policy: Policy) -> Outcome:
    """Compare the free space with minimum_image_gib."""
    found = _images(host, policy)
    if found is None or found.available_bytes is None:
        return unknown(f"the free space of {policy.image_directory}")
    evidence = f"{gib(found.available_bytes)} free at {found.path}, wanted at least {policy.minimum_image_gib} GiB"
    if found.available_bytes >= policy.minimum_image_gib * GIB:
        return Outcome(PASS, evidence)
    return Outcome(
        FAIL,
        evidence,
        f"du -xh --max-depth=2 {found.mount or found.path} | sort -h | tail shows what to remove; or mount a "
        f"disk at {policy.image_directory}",
    )


@check(
    "image-filesystem",
    "storage",
    "Images lie on a local file system that lasts",
    why="On tmpfs or an overlay images are gone after a reboot; a network file system that stalls stalls every "
    "guest's disk.",
    reference="roles/runtime_assembler/README.md",
)
def image_filesystem(host: Host, policy: Policy) -> Outcome:
    """FAIL when read-only, WARN for one that does not last or is not known."""
    found = _images(host, policy)
    if found is None or found.type is None:
        return unknown(f"the file system of {policy.image_directory}")
    evidence = f"{found.type} at {found.mount or found.path}"
    if found.is_read_only:
        return Outcome(FAIL, f"{evidence}, read-only", f"mount -o remount,rw {found.mount or found.path}")
    if found.type in _LASTING:
        return Outcome(PASS, evidence)
    what = "does not last" if found.type in _VOLATILE else "is not among those tested"
    return Outcome(WARN, f"{evidence} {what}", f"mount an ext4 or xfs file system at {policy.image_directory}")


@check(
    "image-inodes",
    "storage",
    "There are inodes left where images lie",
    why="A file system without inodes says 'no space left' with free space shown.",
    reference="df(1), --inodes",
)
def image_inodes(host: Host, policy: Policy) -> Outcome:
    """WARN when few are left; file systems without a fixed number say 0 and count as unlimited."""
    found = _images(host, policy)
    if found is None or found.available_inodes is None:
        return unknown(f"the inodes of {policy.image_directory}")
    if found.available_inodes >= _MIN_INODES or (found.available_inodes == 0 and found.type in ("btrfs", "zfs")):
        return Outcome(PASS, f"{found.available_inodes} free")
    return Outcome(
        WARN,
        f"{found.available_inodes} free",
        f"find {found.mount or '/'} -xdev -type d -size +1M shows directories with very many files",
    )


@check(
    "image-disk",
    "storage",
    "Images lie on a disk without moving parts",
    why="All runtimes of a host start from one image: a rotating disk turns that into minutes of seeking.",
    reference="Linux: Documentation/ABI/stable/sysfs-block, queue/rotational",
)
def image_disk(host: Host, policy: Policy) -> Outcome:
    """WARN when the disk below the image directory rotates."""
    found = _images(host, policy)
    use = next((item for item in host.storage.uses if found and item.purpose == f"mount {found.mount}"), None)
    if use is None or use.device is None:
        return unknown(f"the disk below {policy.image_directory}")
    names, pending = [], [use.device]
    while pending:
        device = host.storage.devices.get(pending.pop())
        if device and device.name not in names:
            names.append(device.name)
            pending += device.slaves
    # A virtual disk says that it rotates unless somebody configured it otherwise.
    physical = [name for name in names if not name.startswith(_VIRTUAL_DISKS)]
    known = {name: host.storage.devices[name].is_rotational for name in physical}
    if names and not physical:
        return Outcome(SKIP, f"{join(names)} is a virtual disk, and what is below it is the host's own")
    if not any(value is not None for value in known.values()):
        return unknown(f"whether {join(names)} rotates")
    rotating = [name for name, value in known.items() if value]
    if rotating:
        return Outcome(WARN, f"{join(rotating)} rotates", f"mount a solid-state disk at {policy.image_directory}")
    return Outcome(PASS, f"{join(names)}: solid state")


@check(
    "storage-hardware",
    "storage",
    "The hardware below every mounted file system is known",
    why="Where the controller below a file system cannot be found, no storage controller can be called free, and "
    "binding refuses them all.",
    reference="docs/precheck.md",
)
def storage_hardware(host: Host, _policy: Policy) -> Outcome:
    """INFO that lists mounts whose device is not known."""
    if not host.storage.uses:
        return unknown("/proc/self/mountinfo, or nothing is mounted from a disk: it")
    lost = [f"{use.purpose} ({use.source})" for use in host.storage.uses if use.device is None]
    if not lost:
        return Outcome(PASS, f"{len(host.storage.uses)} in use, all known")
    return Outcome(INFO, f"not known: {join(lost, 4)}")
