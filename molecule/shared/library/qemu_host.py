#!/usr/bin/python3
"""Start, await or remove one emulated test host: a QEMU machine with an IOMMU and devices to pass through."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import struct
import subprocess
import time
from pathlib import Path

from ansible.module_utils import nspawn_bed as bed
from ansible.module_utils import qemu_bed
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: qemu_host
short_description: Start, await or remove one emulated test host
description:
  - A virtual machine under software emulation, with the devices that C(module_utils/qemu_bed.py) describes, reached
    over ssh in the scenario's private network. It writes to an overlay over the image of qemu_image.
  - V(started) returns at once, so that hosts boot side by side; V(reachable) waits for ssh.
options:
  machine: {description: Machine name; unique on this machine., type: str, required: true}
  state: {description: Whether the host runs., type: str, choices: [started, reachable, absent], default: started}
  hostname: {description: Name the host gives itself., type: str}
  image: {description: Directory made by qemu_image., type: path}
  root_uuid: {description: UUID of the image's root file system., type: str}
  slot: {description: Network slot from nspawn_network., type: int}
  index: {description: Member number within the network; 1 is the first host., type: int}
  authorized_key: {description: Public key that may log in as root., type: str}
  devices: {description: The slots; see C(module_utils/qemu_bed.py)., type: list, elements: raw, default: []}
  iommu: {description: What the machine has., type: str, choices: [remapping, no_remapping, none], default: remapping}
  boot:
    description: V(kernel) boots the image's kernel with O(cmdline); V(grub) what GRUB's configuration on the disk says.
    type: str
    choices: [kernel, grub]
    default: kernel
  cmdline: {description: Kernel command line for O(boot=kernel)., type: str, default: ''}
  memory_mib: {description: Memory., type: int, default: 1024}
  timeout: {description: Seconds until ssh must answer; a busy machine needs many., type: int, default: 900}
"""

RETURN = r"""
address: {description: Address of the host., type: str, returned: not absent}
host_key: {description: Public host key as in known_hosts., type: str, returned: not absent}
seconds: {description: Time from the machine's start to ssh answering., type: float, returned: state is reachable}
"""

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
PANIC = "Kernel panic"
ANSWER_SECONDS = 3.0  # what an emulated sshd may take for its greeting


def seed(path: Path, params: dict) -> str:
    """Write the archive that makes this host this host; the public host key."""
    tree = path.parent / "seed"

    def put(name: str, text: str, mode: int = 0o644) -> None:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)

    name, slot = params["hostname"], params["slot"]
    put("etc/hostname", f"{name}\n")
    put("etc/hosts", f"127.0.0.1 localhost {name}\n::1 localhost\n")
    put("etc/machine-id", f"{secrets.token_hex(16)}\n", 0o444)
    put(
        "etc/systemd/network/10-lan.network",
        f"[Match]\nMACAddress={mac_address(params)}\n\n[Network]\nAddress={bed.address(slot, params['index'])}/28\n"
        f"Gateway={bed.address(slot, 0)}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    )
    put("root/.ssh/authorized_keys", params["authorized_key"].strip() + "\n", 0o600)
    (tree / "root").chmod(0o700)
    (tree / "root/.ssh").chmod(0o700)
    key = bed.make_host_key(tree)
    bed.run("tar", "-c", "-f", str(path), "--owner=0", "--group=0", "-C", str(tree), "etc", "root")
    # GRUB looks for disks no further when it meets one that is smaller than a cylinder.
    os.truncate(path, max(1 << 20, -(-path.stat().st_size // 4096) * 4096))
    shutil.rmtree(tree)
    return key


def mac_address(params: dict) -> str:
    """An address from the range that may be given out locally, the same for the same place in the network."""
    return f"52:54:00:6d:{params['slot']:02x}:{params['index']:02x}"


def open_tap(params: dict) -> int:
    """Make a tap on the bridge; a descriptor. The kernel removes the tap when QEMU, the last holder, ends."""
    name = f"vllmdmol{params['slot']}x{params['index']}"
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    bed.run("ip", "link", "set", name, "master", bed.bridge_name(params["slot"]), "up")
    return descriptor


def start(params: dict, state: Path) -> dict:
    """Start the host from nothing; its record."""
    machine = qemu_bed.Machine(
        slots=qemu_bed.parse_slots(params["devices"]),
        iommu=params["iommu"],
        memory_mib=params["memory_mib"],
        cmdline=params["cmdline"],
        boot=params["boot"],
    )
    state.mkdir(parents=True)
    key = seed(state / "seed.tar", params)
    image = Path(params["image"])
    overlay = ["-q", "-f", "qcow2", "-F", "raw", "-b", str(image / "system.raw"), str(state / "system.qcow2")]
    bed.run("qemu-img", "create", *overlay)
    for name in qemu_bed.disks(machine):
        with (state / f"{name}.raw").open("wb") as disk:
            disk.write(f"vllmd-bed {name}\n".encode())  # what a guest that gets the device must read there
            disk.truncate(qemu_bed.DISK_MIB * 1024 * 1024)
    tap = open_tap(params)
    command = qemu_bed.command(machine, state, image, tap=tap, mac=mac_address(params), root_uuid=params["root_uuid"])
    (state / "command").write_text("\n".join(command) + "\n", encoding="utf-8")
    name = params["machine"]
    with (state / "qemu.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(tap,),
            preexec_fn=lambda: bed.enter_own_cgroup(name),  # noqa: PLW1509 - single-threaded here
        )
    os.close(tap)
    record = {
        "machine": name,
        "address": bed.address(params["slot"], params["index"]),
        "host_key": key,
        "pid": process.pid,
        "start_ticks": bed.start_ticks(process.pid),
        "started": time.time(),
    }
    bed.write_record(state / "host.json", record)
    return record


def await_ssh(state: Path, timeout: int) -> dict:
    """The record of a started host once it answers. BedError."""
    record = bed.read_record(state / "host.json")
    if not record:
        raise bed.BedError(f"{state} holds no started host; create it first")
    (state / "console.log").touch()
    try:
        bed.wait_for_ssh(
            lambda: bed.is_running(record), record["address"], timeout, state / "console.log", ANSWER_SECONDS
        )
    except bed.BedError as error:
        said = (state / "qemu.log").read_text(encoding="utf-8", errors="replace").strip()
        raise bed.BedError(f"{error}\nQEMU said: {said or 'nothing'}") from None
    return record


def last_words(console: Path, lines: int = 40) -> str:
    """The end of a host's console; empty when it has none."""
    try:
        return "\n".join(console.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "machine": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "reachable", "absent"], "default": "started"},
            "hostname": {"type": "str"},
            "image": {"type": "path"},
            "root_uuid": {"type": "str"},
            "slot": {"type": "int"},
            "index": {"type": "int"},
            "authorized_key": {"type": "str", "no_log": False},
            "devices": {"type": "list", "elements": "raw", "default": []},
            "iommu": {"type": "str", "choices": ["remapping", "no_remapping", "none"], "default": "remapping"},
            "boot": {"type": "str", "choices": ["kernel", "grub"], "default": "kernel"},
            "cmdline": {"type": "str", "default": ""},
            "memory_mib": {"type": "int", "default": 1024},
            "timeout": {"type": "int", "default": 900},
        },
        required_if=[("state", "started", ["hostname", "image", "root_uuid", "slot", "index", "authorized_key"])],
    )
    params = module.params
    state = bed.STATE_ROOT / params["machine"]
    try:
        if params["state"] == "absent":
            said = last_words(state / "console.log")
            if PANIC in said:
                module.warn(f"the kernel of {params['machine']} had died; its console ended:\n{said}")
            module.exit_json(changed=bed.dismantle(params["machine"], graceful_seconds=2.0))
        if params["state"] == "reachable":
            record = await_ssh(state, params["timeout"])
            module.exit_json(changed=False, **record, seconds=round(time.time() - record["started"], 1))
        bed.dismantle(params["machine"], graceful_seconds=0.0)
        module.exit_json(changed=True, **start(params, state))
    except (bed.BedError, qemu_bed.MachineError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
