"""Two things about an ext4 image that mkfs.ext4 leaves to chance: how large it has to be, and when its inodes changed.

Usage: vllmd_ext4.py size TREE          print "<KiB> <inodes>": what TREE takes at most, told from its contents alone
       vllmd_ext4.py times IMAGE EPOCH  give every inode its modification time for change and access, EPOCH for birth

The layout is the kernel's (Documentation/filesystems/ext4). The image has no metadata checksums and 32 bit block
numbers (see vllmd-make-ext4), so inodes may be written without anything else changing.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

from vllmd_tree import walk

BLOCK = 4096
#: A directory entry is at most this much larger than its name (8 bytes and padding to 4).
_ENTRY = 8 + 3
#: Links up to this length live in the inode.
_FAST_LINK = 59
#: Extents that fit in the inode; a file in more pieces, such as one with holes, takes another block.
_SPARE_INODES = 64


def needs(tree: Path) -> tuple[int, int]:
    """Return the KiB of blocks and the inodes that ``tree`` takes; not how it lies on the builder's disk counts."""
    blocks, inodes = 0, 0
    seen: set[int] = set()
    names: dict[str, int] = {}
    for relative, status in walk(tree):
        parent, _slash, name = relative.rpartition("/")
        names[parent] = names.get(parent, 2 * 12) + _ENTRY + len(os.fsencode(name))
        if status.st_ino in seen and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            continue
        seen.add(status.st_ino)
        inodes += 1
        if stat.S_ISREG(status.st_mode):
            blocks += -(-status.st_size // BLOCK) + (1 if status.st_size > 512 * BLOCK else 0)
        elif stat.S_ISLNK(status.st_mode) and status.st_size > _FAST_LINK:
            blocks += 1
        elif stat.S_ISDIR(status.st_mode):
            names.setdefault(relative if relative != "." else "", 2 * 12)
    # A name never spans two blocks, so a block may end with a gap of the longest name.
    blocks += sum(1 + size // (BLOCK - 264) for size in names.values())
    return blocks * BLOCK // 1024, inodes + _SPARE_INODES


def settle_times(image: Path, epoch: int) -> int:
    """Write the times of all inodes in use. Returns how many there are. Raises SystemExit for another file system."""
    with image.open("r+b") as disk:
        disk.seek(1024)
        superblock = disk.read(1024)
        count, blocks_count = struct.unpack_from("<II", superblock, 0)
        (log_block,) = struct.unpack_from("<I", superblock, 24)
        (per_group_blocks,) = struct.unpack_from("<I", superblock, 32)
        (per_group,) = struct.unpack_from("<I", superblock, 40)
        (magic,) = struct.unpack_from("<H", superblock, 56)
        (inode_size,) = struct.unpack_from("<H", superblock, 88)
        (incompatible, read_only) = struct.unpack_from("<II", superblock, 96)
        if (
            magic != 0xEF53
            or 1024 << log_block != BLOCK
            or incompatible & 0x80
            or read_only & 0x400
            or inode_size < 160
        ):
            sys.exit(f"vllmd-debian: {image} is no ext4 of the kind that vllmd-make-ext4 makes")
        groups = -(-blocks_count // per_group_blocks)
        disk.seek(BLOCK)
        descriptors = disk.read(32 * groups)
        settled = 0
        for group in range(groups):
            _blocks, bitmap_at, table_at = struct.unpack_from("<III", descriptors, 32 * group)
            (flags,) = struct.unpack_from("<H", descriptors, 32 * group + 18)
            if flags & 1:  # no inode of this group was ever written
                continue
            disk.seek(bitmap_at * BLOCK)
            bitmap = disk.read(per_group // 8 + 1)
            used = [i for i in range(min(per_group, count - group * per_group)) if bitmap[i // 8] >> i % 8 & 1]
            if not used:
                continue
            disk.seek(table_at * BLOCK)
            table = bytearray(disk.read((used[-1] + 1) * inode_size))
            for index in used:
                at = index * inode_size
                (modified,) = struct.unpack_from("<I", table, at + 16)
                if modified:
                    struct.pack_into("<II", table, at + 8, modified, modified)
                    struct.pack_into("<IIIII", table, at + 132, 0, 0, 0, epoch, 0)
                    settled += 1
            disk.seek(table_at * BLOCK)
            disk.write(table)
        return settled


if __name__ == "__main__":
    if sys.argv[1] == "size":
        print(*needs(Path(sys.argv[2])))
    else:
        settle_times(Path(sys.argv[2]), int(sys.argv[3]))
