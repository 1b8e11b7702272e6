"""After converge: whole groups are with vfio-pci, nothing else is, and a virtual machine sees the devices."""

from __future__ import annotations

import re

import pytest

testinfra_hosts = ["ansible://gpus"]
BOUND = ("0000:01:00.0", "0000:01:00.1", "0000:02:00.0")
# Exits with 0 when the kernel says that the group can be used (VFIO_GROUP_GET_STATUS, linux/vfio.h).
VIABLE = """
import fcntl, os, struct, sys
status = bytearray(struct.pack("II", 8, 0))
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), 0x3B67, status)
sys.exit(0 if struct.unpack("II", status)[1] & 1 else 1)
"""
START = """
systemd-run --quiet --wait --pipe --collect --property=User=vllmd --property=LimitMEMLOCK=infinity \
  --property=RuntimeDirectory=vllmd \
  --setenv=PYTHONPATH=/opt/vllmd/library \
  --setenv=VLLMD_HYPERVISOR_NAME=nested \
  --setenv=VLLMD_HYPERVISOR_RUN_DIRPATH=/run/vllmd \
  --setenv=VLLMD_HYPERVISOR_KERNEL_FILEPATH=/opt/vllmd/guest/kernel \
  --setenv=VLLMD_HYPERVISOR_INITRD_FILEPATH=/opt/vllmd/guest/initrd \
  --setenv=VLLMD_HYPERVISOR_SYSTEM_IMAGE_FILEPATH=/opt/vllmd/guest/system.raw \
  --setenv=VLLMD_HYPERVISOR_SYSTEM_IMAGE_READONLY=on \
  --setenv=VLLMD_HYPERVISOR_CONFIG_IMAGE_FILEPATH=/opt/vllmd/guest/config.iso \
  --setenv=VLLMD_HYPERVISOR_CPU_COUNT=1 \
  --setenv=VLLMD_HYPERVISOR_MEMORY_CONFIG=size=256M \
  --setenv=VLLMD_HYPERVISOR_BACKEND=qemu \
  --setenv=VLLMD_HYPERVISOR_ACCELERATION=kvm \
  --setenv='VLLMD_HYPERVISOR_CMDLINE=console=ttyS0 panic=-1 quiet tiny.poweroff' \
  --setenv=VLLMD_HYPERVISOR_DEVICE_FILEPATH_LIST=%s \
  python3 -m vllmd_hypervisor start
"""


def test_whole_groups_are_bound_and_nothing_else(functions, native) -> None:
    drivers = {address: driver for address, (driver, *_) in functions().items()}
    assert drivers == native | dict.fromkeys(BOUND, "vfio-pci")


def test_grub_booted_with_what_the_role_wrote(host) -> None:
    assert "iommu=pt" in host.file("/proc/cmdline").content_string.split()


@pytest.mark.parametrize("address", ["0000:01:00.0", "0000:02:00.0"])
def test_group_is_viable_and_the_runtimes_alone(host, functions, address: str) -> None:
    node = f"/dev/vfio/{functions()[address][2]}"
    assert host.check_output(f"stat --format='%U %G %a' {node}") == "root vllmd 660"
    assert host.run("python3 -c %s %s", VIABLE, node).rc == 0


def test_a_virtual_machine_sees_the_devices(host, functions) -> None:
    now = functions()
    nodes = ",".join(f"/dev/vfio/{now[address][2]}" for address in ("0000:01:00.0", "0000:02:00.0"))
    started = host.run(START % nodes)
    assert started.rc == 0, started.stdout + started.stderr
    seen = dict(re.findall(r"tiny-guest: pci (\S+) 0x(\S+ 0x\S+ 0x\S+)", started.stdout))
    assert {address: seen.get(address) for address in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0")} == {
        "0000:01:00.0": "038000 0x1234 0x1111",
        "0000:02:00.0": "040300 0x8086 0x2668",
        "0000:03:00.0": "030200 0x1af4 0x1042",
    }
    # The device itself moves these bytes into the guest's memory, so the IOMMU translates for it.
    assert "tiny-guest: vdc reads vllmd-bed gpu2x0" in started.stdout


def test_the_devices_are_still_with_vfio_after_the_virtual_machine(functions) -> None:
    now = functions()
    assert [now[address][0] for address in BOUND] == ["vfio-pci"] * 3
