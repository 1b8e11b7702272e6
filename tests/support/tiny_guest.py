"""A guest that boots in seconds: Debian's cloud kernel and a busybox initramfs, made once and cached.

It answers `GET /health` on port 8000, shows a login-free console on ttyS0, lists its disks, the first words on them and
its PCI functions there, and powers off on the ACPI power button. `tiny.poweroff` or `tiny.panic` on its command line
make it do that once it is up. Needs apt, dpkg, cpio and busybox-static. Run it to print the paths:

    python3 tests/support/tiny_guest.py
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("/var/cache/vllmd/test-kernel")
BUSYBOX = Path("/bin/busybox")
META_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "pvpanic-pci", "button", "evdev", "isofs")
CMDLINE = "console=ttyS0 panic=-1 quiet"
READY = "tiny-guest: ready"
POWERED_OFF = "tiny-guest: power button"

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /etc/acpi/PWRF /www /run
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
while read -r module; do insmod "/modules/$module"; done </modules/order
ip link set lo up
for card in /sys/class/net/e*; do
  [ -e "$card" ] || continue
  ip link set "${card##*/}" up
  ip address add 10.0.2.15/24 dev "${card##*/}"
  ip route add default via 10.0.2.2
done
for disk in /sys/block/vd*; do
  [ -e "$disk" ] || continue
  echo "tiny-guest: ${disk##*/} ro=$(cat "$disk/ro") sectors=$(cat "$disk/size") serial=$(cat "$disk/serial")"
  echo "tiny-guest: ${disk##*/} reads $(head -c 64 "/dev/${disk##*/}" | tr -dc 'a-z0-9 -' | head -c 32)"
done
for device in /sys/bus/pci/devices/*; do
  echo "tiny-guest: pci ${device##*/} $(cat "$device/class" "$device/vendor" "$device/device" | tr '\\n' ' ')"
done
echo "tiny-guest: cpus=$(nproc) memory_kib=$(awk '/MemTotal/ {print $2}' /proc/meminfo) cmdline=$(cat /proc/cmdline)"
printf 'ok\\n' >/www/health
httpd -p 8000 -h /www
printf '#!/bin/sh\\necho "@POWERED_OFF@" >/dev/console\\npoweroff -f\\n' >/etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
acpid -c /etc/acpi -l /dev/null
echo "@READY@"
case "$(cat /proc/cmdline)" in
  *tiny.poweroff*) poweroff -f ;;
  *tiny.panic*) echo c >/proc/sysrq-trigger ;;
esac
# Fall through to a shell whose end ends nothing: a closed console must not panic the kernel.
while :; do setsid cttyhack sh || sleep 1; sleep 1; done
"""


@dataclass(frozen=True)
class TinyGuest:
    """Files to boot: a bzImage, the same kernel as PVH ELF, and an initramfs."""

    kernel: Path
    kernel_elf: Path
    initrd: Path


def tiny_guest() -> TinyGuest:
    """Return the cached guest, making it first where it is missing. RuntimeError says what could not be made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = _kernel_home()
        guest = TinyGuest(home / "vmlinuz", home / "vmlinux", home / "initrd")
        recipe = home / "init"
        if not recipe.exists() or recipe.read_text() != _init():
            _write_initrd(home, guest.initrd)
            recipe.write_text(_init())
    return guest


def _init() -> str:
    return INIT.replace("@POWERED_OFF@", POWERED_OFF).replace("@READY@", READY)


def _kernel_home() -> Path:
    """Return the directory with an unpacked kernel; download and unpack the newest one where there is none."""
    for home in sorted(CACHE.glob("linux-image-*")):
        wanted = home / "modules/wanted"
        if wanted.exists() and wanted.read_text() == _wanted():
            return home
        shutil.rmtree(home)
    depends = _run("apt-cache", "depends", "--important", META_PACKAGE)
    names = [word for word in depends.split() if word.startswith("linux-image-") and word != META_PACKAGE]
    if not names:
        raise RuntimeError(f"apt knows no {META_PACKAGE}; run apt-get update")
    package = names[0]
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=CACHE))
    try:
        _run("apt-get", "download", package, cwd=partial)
        _run("dpkg", "-x", str(next(partial.glob("*.deb"))), str(partial / "root"))
        shutil.copy(next((partial / "root/boot").glob("vmlinuz-*")), partial / "vmlinuz")
        (partial / "vmlinux").write_bytes(extract_elf((partial / "vmlinuz").read_bytes()))
        _collect_modules(next((partial / "root/lib/modules").iterdir()), partial / "modules")
        shutil.rmtree(partial / "root")
        next(partial.glob("*.deb")).unlink()
        partial.chmod(0o755)
        partial.rename(CACHE / package)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CACHE / package


def _wanted() -> str:
    return " ".join(MODULES) + "\n"


def _collect_modules(tree: Path, target: Path) -> None:
    """Copy MODULES and all they depend on, uncompressed, and write their loading order."""
    target.mkdir()
    _run("depmod", "-b", str(tree.parent.parent.parent), tree.name)
    needs = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    order: list[str] = []
    for name in MODULES:
        found = [path for path in needs if Path(path).name.split(".")[0] == name]
        for path in found:  # none where it is built into this kernel
            order += [one for one in [*reversed(needs[path]), path] if one not in order]
    for path in order:
        shutil.copy(tree / path, target / Path(path).name)
        if path.endswith(".xz"):
            _run("unxz", str(target / Path(path).name))
    (target / "wanted").write_text(_wanted())
    (target / "order").write_text("".join(Path(path).name.removesuffix(".xz") + "\n" for path in order))


def _write_initrd(home: Path, initrd: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        root = Path(name)
        (root / "bin").mkdir()
        (root / "dev").mkdir()
        shutil.copy(BUSYBOX, root / "bin/busybox")
        shutil.copytree(home / "modules", root / "modules")
        (root / "init").write_text(_init())
        (root / "init").chmod(0o755)
        listing = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*"))) + "\n"
        pack = ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"]
        archive = subprocess.run(pack, input=listing.encode(), cwd=root, capture_output=True, check=True).stdout
    partial = home / f".initrd.partial-{os.getpid()}"
    partial.write_bytes(gzip.compress(archive, 6))
    partial.rename(initrd)


def extract_elf(bzimage: bytes) -> bytes:
    """Return the vmlinux inside a bzImage (boot.rst: setup_sects, payload_offset, payload_length); LZ4 and gzip."""
    setup_size = ((bzimage[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[setup_size + offset : setup_size + offset + length]
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return _unpack_lz4_legacy(payload[4:-4])
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    raise RuntimeError(f"the kernel's payload is packed in a way this helper does not know ({payload[:4].hex()})")


def _unpack_lz4_legacy(data: bytes) -> bytes:
    """Unpack LZ4's legacy frames: blocks of at most 8 MiB, each after its 32-bit size (lz4_Frame_format.md)."""
    unpacked = bytearray()
    position = 0
    while position + 4 <= len(data):
        size = struct.unpack_from("<I", data, position)[0]
        unpacked += _unpack_lz4_block(data[position + 4 : position + 4 + size])
        position += 4 + size
    return bytes(unpacked)


def _unpack_lz4_block(data: bytes) -> bytearray:
    out = bytearray()
    position = 0
    while True:
        token = data[position]
        position += 1
        count, position = _lz4_length(data, position, token >> 4)
        out += data[position : position + count]
        position += count
        if position >= len(data):
            return out
        distance = data[position] | data[position + 1] << 8
        count, position = _lz4_length(data, position + 2, token & 15)
        count += 4
        start = len(out) - distance
        if distance >= count:
            out += out[start : start + count]
        else:
            pattern = out[start:]
            out += (pattern * (count // distance + 1))[:count]


def _lz4_length(data: bytes, position: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            extra = data[position]
            position += 1
            length += extra
            if extra != 255:
                break
    return length, position


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    made = tiny_guest()
    print(f"{made.kernel}\n{made.kernel_elf}\n{made.initrd}")
