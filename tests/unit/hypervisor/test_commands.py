"""What the VMMs are told: QEMU's command line, and Cloud Hypervisor's requests, checked against its API description."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.openapi import CloudHypervisorApi
from vllmd_hypervisor.cloud_hypervisor import CloudHypervisor, create_body
from vllmd_hypervisor.config import Config, parse_config
from vllmd_hypervisor.devices import Endpoint
from vllmd_hypervisor.image import Image
from vllmd_hypervisor.kernel import BZIMAGE, FIRMWARE
from vllmd_hypervisor.launch import Descriptors
from vllmd_hypervisor.machine import Machine
from vllmd_hypervisor.qemu import Qemu
from vllmd_hypervisor.quantity import GIB
from vllmd_hypervisor.state import RunDirectory

GPUS = (Endpoint("0000:01:00.0", 10, 0), Endpoint("0000:01:00.1", 10, 0))


def config(**variables: str) -> Config:
    base = {
        "KERNEL_FILEPATH": "/i/kernel",
        "SYSTEM_IMAGE_FILEPATH": "/i/system.raw",
        "CONFIG_IMAGE_FILEPATH": "/r/config.iso",
        "NAME": "r1",
        "CPU_COUNT": "8",
        "CMDLINE": "root=/dev/vda ro console=ttyS0",
    }
    return parse_config({f"VLLMD_HYPERVISOR_{name}": value for name, value in (base | variables).items()}, 0)


def machine(backend: str = "qemu", accelerator: str = "kvm", **variables: str) -> Machine:
    parsed = config(**variables)
    disks = (
        Image(parsed.system_image, "raw", False, parsed.system_image_readonly),
        Image(parsed.config_image, "raw", False, True),
        *([Image(parsed.cache_image, "raw", False, False)] if parsed.cache_image else []),
    )
    return Machine(parsed, backend, Path("/usr/bin/vmm"), accelerator, BZIMAGE, disks, (), ())


def command(made: Machine, descriptors: Descriptors | None = None) -> list[str]:
    run = RunDirectory(made.config.identity)
    return Qemu().command(made, run, descriptors or Descriptors(lock=3, log=4))


def options(arguments: list[str], name: str) -> list[str]:
    return [arguments[index + 1] for index, argument in enumerate(arguments) if argument == name]


def test_qemu_golden() -> None:
    assert command(machine(INITRD_FILEPATH="/i/initrd", SYSTEM_IMAGE_READONLY="on")) == [
        "vllmd-hypervisor",
        *("-name", "guest=r1,process=vllmd-hypervisor"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35,vmport=off,sata=off,smbus=off,dump-guest-core=off,memory-backend=ram0"),
        *("-accel", "kvm", "-cpu", "host"),
        *("-smp", "8,sockets=1"),
        *("-m", "size=16777216K"),
        *("-object", "memory-backend-memfd,id=ram0,size=17179869184,share=on,merge=off,prealloc=off"),
        *("-kernel", "/i/kernel", "-initrd", "/i/initrd", "-append", "root=/dev/vda ro console=ttyS0"),
        "-blockdev",
        '{"driver": "raw", "node-name": "system", "read-only": true, "auto-read-only": false, "discard": "ignore", '
        '"file": {"driver": "file", "filename": "/i/system.raw", "discard": "ignore"}}',
        *("-device", "virtio-blk-pci,drive=system,id=system-disk,serial=system,bus=pcie.0,addr=0x03"),
        "-blockdev",
        '{"driver": "raw", "node-name": "config", "read-only": true, "auto-read-only": false, "discard": "ignore", '
        '"file": {"driver": "file", "filename": "/r/config.iso", "discard": "ignore"}}',
        *("-device", "virtio-blk-pci,drive=config,id=config-disk,serial=config,bus=pcie.0,addr=0x04"),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng0,bus=pcie.0,addr=0x05"),
        *("-device", "pvpanic-pci,bus=pcie.0,addr=0x06", "-action", "panic=exit-failure"),
        *("-add-fd", "fd=4,set=1,opaque=log"),
        *(
            "-chardev",
            "socket,path=/run/vllmd/r1/console.sock,server=on,wait=off,id=console,logfile=/dev/fdset/1,logappend=on",
        ),
        *("-serial", "chardev:console"),
        *("-chardev", "socket,id=qmp,path=/run/vllmd/r1/qmp.sock,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]


def test_qemu_emulates_a_cpu_that_does_not_crash_guests() -> None:
    arguments = command(machine(accelerator="tcg"))
    assert options(arguments, "-accel") == ["tcg,thread=multi"]
    assert options(arguments, "-cpu") == ["max,-cx16,-la57"]


def test_qemu_passes_groups_through_behind_root_ports() -> None:
    made = replace(machine(), endpoints=GPUS)
    devices = options(command(made), "-device")
    assert devices[-4:] == [
        "pcie-root-port,id=port0,chassis=1,slot=1,bus=pcie.0,addr=0x10.0,multifunction=on",
        "vfio-pci,host=0000:01:00.0,id=vfio0,bus=port0,addr=0x0,rombar=0",
        "pcie-root-port,id=port1,chassis=2,slot=2,bus=pcie.0,addr=0x10.1",
        "vfio-pci,host=0000:01:00.1,id=vfio1,bus=port1,addr=0x0,rombar=0",
    ]
    assert "-global" not in command(made)


def test_qemu_has_room_for_sixteen_big_gpus() -> None:
    made = replace(machine(), endpoints=tuple(Endpoint(f"0000:{bus:02x}:00.0", bus, 128 * GIB) for bus in range(16)))
    arguments = command(made)
    assert options(arguments, "-global") == [f"q35-pcihost.pci-hole64-size={4096 * GIB}"]
    ports = [device for device in options(arguments, "-device") if device.startswith("pcie-root-port")]
    assert "addr=0x10.7" in ports[7]
    assert ports[8].endswith("addr=0x11.0,multifunction=on")


def test_qemu_user_network_forwards_ports() -> None:
    arguments = command(
        machine(NETWORK="mode=user,forward=127.0.0.1:8000:8000,forward=127.0.0.1:2222:22,mac=52:54:00:00:00:01")
    )
    assert options(arguments, "-netdev") == [
        "user,id=net0,hostfwd=tcp:127.0.0.1:8000-:8000,hostfwd=tcp:127.0.0.1:2222-:22"
    ]
    assert "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile=,bus=pcie.0,addr=0x02" in arguments


def test_a_cache_disk_is_the_third_and_writable() -> None:
    made = machine(CACHE_IMAGE_FILEPATH="/r/cache.raw")
    arguments = command(made)
    disk = json.loads(options(arguments, "-blockdev")[2])
    assert (disk["file"]["filename"], disk["read-only"], disk["discard"]) == ("/r/cache.raw", False, "unmap")
    assert "virtio-blk-pci,drive=cache,id=cache-disk,serial=cache,bus=pcie.0,addr=0x07" in arguments
    disks = create_body(made)["disks"]
    assert disks[2] == {
        "path": "/r/cache.raw",
        "readonly": False,
        "image_type": "Raw",
        "id": "cache-disk",
        "serial": "cache",
    }


@pytest.mark.parametrize(("vhost", "netdev"), [(-1, "tap,id=net0,fd=5"), (6, "tap,id=net0,fd=5,vhost=on,vhostfd=6")])
def test_qemu_gets_its_tap_as_a_descriptor(vhost: int, netdev: str) -> None:
    arguments = command(machine(NETWORK="mode=tap,tap=vm0"), Descriptors(lock=3, log=4, tap=5, vhost=vhost))
    assert options(arguments, "-netdev") == [netdev]


def test_qemu_boots_firmware_as_bios() -> None:
    arguments = command(replace(machine(CMDLINE=""), kernel_kind=FIRMWARE))
    assert options(arguments, "-bios") == ["/i/kernel"]
    assert "-kernel" not in arguments
    assert "-append" not in arguments


def test_qemu_is_told_every_images_format() -> None:
    made = machine()
    disks = (Image(Path("/i/a,b.qcow2"), "qcow2", False, False), Image(Path("/dev/vg/c"), "raw", True, True))
    system, conf = (json.loads(text) for text in options(command(replace(made, disks=disks)), "-blockdev"))
    assert (system["driver"], system["file"]["driver"], system["file"]["filename"]) == ("qcow2", "file", "/i/a,b.qcow2")
    assert (system["read-only"], system["discard"], system["backing"]) == (False, "unmap", None)
    assert "backing" not in conf
    assert (conf["driver"], conf["file"]["driver"], conf["read-only"]) == ("raw", "host_device", True)


def test_qemu_writes_to_a_socket_log_through_stdout() -> None:
    arguments = command(machine(), Descriptors(lock=3, log=4, log_is_socket=True))
    assert options(arguments, "-serial") == ["chardev:log", "chardev:console"]
    assert options(arguments, "-chardev")[0] == "stdio,id=log,signal=off"
    assert "-add-fd" not in arguments


def test_commas_in_paths_do_not_end_options() -> None:
    arguments = command(machine(RUN_DIRPATH="/run/a,b"))
    assert "socket,id=qmp,path=/run/a,,b/r1/qmp.sock,server=on,wait=off" in arguments


def test_cloud_hypervisor_golden() -> None:
    made = machine(
        "cloud-hypervisor", SYSTEM_IMAGE_READONLY="on", INITRD_FILEPATH="/i/initrd", NETWORK="mode=tap,tap=vm0"
    )
    run = RunDirectory(made.config.identity)
    assert CloudHypervisor().command(made, run, Descriptors()) == [
        "vllmd-hypervisor",
        *("--api-socket", "path=/run/vllmd/r1/api.sock"),
        *("--seccomp", "true"),
    ]
    assert create_body(replace(made, endpoints=GPUS)) == {
        "cpus": {"boot_vcpus": 8, "max_vcpus": 8},
        "memory": {
            "size": 17179869184,
            "shared": True,
            "mergeable": False,
            "hugepages": False,
            "prefault": False,
            "reserve": False,
            "thp": True,
            "hotplug_method": "Acpi",
        },
        "payload": {"kernel": "/i/kernel", "initramfs": "/i/initrd", "cmdline": "root=/dev/vda ro console=ttyS0"},
        "disks": [
            {"path": "/i/system.raw", "readonly": True, "image_type": "Raw", "id": "system-disk", "serial": "system"},
            {"path": "/r/config.iso", "readonly": True, "image_type": "Raw", "id": "config-disk", "serial": "config"},
        ],
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "pvpanic": True,
        "net": [{"tap": "vm0", "mac": made.config.network.mac, "id": "net0"}],
        "devices": [
            {"path": "/sys/bus/pci/devices/0000:01:00.0/", "id": "vfio0"},
            {"path": "/sys/bus/pci/devices/0000:01:00.1/", "id": "vfio1"},
        ],
    }


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NETWORK": "mode=tap,tap=vm0,bridge=br0"},
        {"MEMORY_CONFIG": "size=4G,hugepages=on,hugepage_size=1G,prefault=on,reserve=on"},
        {"MEMORY_CONFIG": "size=4G,mergeable=on,thp=off"},
        {"MEMORY_CONFIG": "size=4G,hotplug_size=4G,hotplugged_size=1G,hotplug_method=virtio-mem"},
        {"CMDLINE": "", "SYSTEM_IMAGE_READONLY": "on"},
        {"INITRD_FILEPATH": "/i/initrd", "CPU_COUNT": "1"},
    ],
)
@pytest.mark.parametrize("kind", [BZIMAGE, FIRMWARE])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_every_cloud_hypervisor_body_fits_its_api(variables: dict[str, str], kind: str, image_format: str) -> None:
    made = machine("cloud-hypervisor", **variables)
    disks = (replace(made.disks[0], format=image_format), made.disks[1])
    body = create_body(replace(made, kernel_kind=kind, disks=disks, endpoints=GPUS))
    CloudHypervisorApi().check_request("PUT", "vm.create", body)


def test_the_api_check_refuses_what_the_description_does_not_know() -> None:
    api = CloudHypervisorApi()
    body = create_body(machine("cloud-hypervisor"))
    for broken in (
        body | {"cpu": 4},
        body | {"serial": {"mode": "Stdout"}},
        body | {"memory": {"size": "16G"}},
        body | {"disks": [{"path": "/x", "format": "raw"}]},
        {key: value for key, value in body.items() if key != "payload"},
    ):
        with pytest.raises(AssertionError):
            api.check_request("PUT", "vm.create", broken)
    with pytest.raises(AssertionError):
        api.check_request("POST", "vm.create", body)
