#!/usr/bin/python3
"""Start or remove one test host: a systemd-nspawn container on an overlay over a cached root file system."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path

from ansible.module_utils import nspawn_bed as bed
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: nspawn_host
short_description: Start or remove one test host
description:
  - A systemd-nspawn container that boots its own systemd, reached over ssh in a private network. It writes to an
    overlay, so a fresh one takes a second or two however large its root file system is.
  - What a broken run left behind under the same machine name is taken apart first.
options:
  machine: {description: Machine name; unique on this machine., type: str, required: true}
  state: {description: Whether the host runs., type: str, choices: [started, absent], default: started}
  hostname: {description: Name the host gives itself., type: str}
  rootfs: {description: Tree made by nspawn_rootfs., type: path}
  slot: {description: Network slot from nspawn_network., type: int}
  index: {description: Member number within the network; 1 is the first host., type: int}
  authorized_key: {description: Public key that may log in as root., type: str}
  init:
    description: What runs in it. V(none) is a host without systemd, such as a plain container; only sshd runs there.
    type: str
    choices: [systemd, none]
    default: systemd
  arguments: {description: Further arguments for systemd-nspawn., type: list, elements: str, default: []}
  static: {description: Directory that is copied over the host's tree before it starts., type: path}
  volumes:
    description: Directories that are not on the overlay, because something in them is an overlay itself.
    type: list
    elements: path
    default: []
  cgroups:
    description:
      - Which control groups the host sees. V(unified) is version 2, as on a host in real life; V(machine) is what this
        machine has, for a kubelet on a machine whose controllers are version 1.
    type: str
    choices: [unified, machine]
    default: unified
  timeout: {description: Seconds until ssh must answer; a busy machine needs many., type: int, default: 600}
"""

RETURN = r"""
address: {description: Address of the host., type: str, returned: state is started}
host_key: {description: Public host key as in known_hosts., type: str, returned: state is started}
leader: {description: Process id of the host's systemd as seen from here., type: int, returned: state is started}
seconds: {description: Time from the call to ssh answering., type: float, returned: state is started}
"""


def seed(upper: Path, params: dict) -> str:
    """Write what makes this host this host into its overlay; the public host key."""

    def put(path: str, text: str, mode: int = 0o644) -> None:
        target = upper / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)

    name, slot = params["hostname"], params["slot"]
    put("etc/hostname", f"{name}\n")
    put("etc/hosts", f"127.0.0.1 localhost {name}\n::1 localhost\n")
    put("etc/machine-id", f"{secrets.token_hex(16)}\n", 0o444)
    put(
        "etc/systemd/network/10-host0.network",
        f"[Match]\nName=host0\n\n[Network]\nAddress={bed.address(slot, params['index'])}/28\nLinkLocalAddressing=no\n",
    )
    wants = upper / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    put("root/.ssh/authorized_keys", params["authorized_key"].strip() + "\n", 0o600)
    (upper / "root").chmod(0o700)
    (upper / "root/.ssh").chmod(0o700)
    return bed.make_host_key(upper)


def volume_of(state: Path, path: str) -> Path:
    """Where a volume of the host lies on this machine."""
    return state / "volumes" / path.strip("/").replace("/", "-")


def start(params: dict, state: Path) -> subprocess.Popen:
    """Start the container, detached; the nspawn process."""
    machine = params["machine"]
    command = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={state / 'root'}",
        f"--machine={machine}",
        f"--hostname={params['hostname']}",
        f"--network-bridge={bed.bridge_name(params['slot'])}",
        "--console=pipe",
        "--settings=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--register=no",
    ]
    # Where systemd runs here it gives the container a scope of its own; where it does not, we make a cgroup.
    managed = Path("/run/systemd/system").is_dir()
    if not managed:
        command.append("--keep-unit")
    command += [f"--bind={volume_of(state, path)}:{path}" for path in params["volumes"]] + params["arguments"]
    if params["init"] == "systemd":
        command.append("--boot")
    else:
        network = f"ip address add {bed.address(params['slot'], params['index'])}/28 dev host0 && ip link set host0 up"
        command += ["--as-pid2", "sh", "-c", f"{network} && mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"]
    environment = dict(os.environ)
    if params["cgroups"] == "unified":
        # A hybrid cgroup tree here must not keep the host from the unified one that it has in real life.
        environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    with (state / "console.log").open("ab") as console:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            preexec_fn=None if managed else lambda: bed.enter_own_cgroup(machine),  # noqa: PLW1509 - single-threaded here
        )


def leader_of(pid: int) -> int:
    """The one child of nspawn that is the container's systemd."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else 0


def make(params: dict, state: Path) -> dict:
    """Make the host from nothing; what the caller needs to reach it."""
    began = time.monotonic()
    for name in ("upper", "work", "root"):
        (state / name).mkdir(parents=True)
    for path in params["volumes"]:
        volume_of(state, path).mkdir(parents=True)
    if params["static"]:
        bed.run("cp", "-aT", "--no-preserve=ownership", params["static"], str(state / "upper"))
    key = seed(state / "upper", params)
    layers = f"lowerdir={params['rootfs']},upperdir={state / 'upper'},workdir={state / 'work'}"
    bed.run("mount", "-t", "overlay", "-o", layers, f"vllmd-molecule-{params['machine']}", str(state / "root"))
    process = start(params, state)
    address = bed.address(params["slot"], params["index"])
    record = {
        "machine": params["machine"],
        "address": address,
        "host_key": key,
        "pid": process.pid,
        "start_ticks": bed.start_ticks(process.pid),
    }
    bed.write_record(state / "host.json", record)
    bed.wait_for_ssh(lambda: process.poll() is None, address, params["timeout"], state / "console.log")
    return {**record, "leader": leader_of(process.pid), "seconds": round(time.monotonic() - began, 2)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "machine": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "hostname": {"type": "str"},
            "rootfs": {"type": "path"},
            "slot": {"type": "int"},
            "index": {"type": "int"},
            "authorized_key": {"type": "str", "no_log": False},
            "init": {"type": "str", "choices": ["systemd", "none"], "default": "systemd"},
            "arguments": {"type": "list", "elements": "str", "default": []},
            "static": {"type": "path"},
            "volumes": {"type": "list", "elements": "path", "default": []},
            "cgroups": {"type": "str", "choices": ["unified", "machine"], "default": "unified"},
            "timeout": {"type": "int", "default": 600},
        },
        required_if=[("state", "started", ["hostname", "rootfs", "slot", "index", "authorized_key"])],
    )
    params = module.params
    machine = params["machine"]
    if params["index"] is not None and not 1 <= params["index"] <= bed.HOSTS_PER_NETWORK:
        module.fail_json(msg=f"index {params['index']} of {machine} is outside 1 to {bed.HOSTS_PER_NETWORK}")
    state = bed.STATE_ROOT / machine
    try:
        if params["state"] == "absent":
            module.exit_json(changed=bed.dismantle(machine))
        bed.dismantle(machine, graceful_seconds=0.0)
        module.exit_json(changed=True, **make(params, state))
    except bed.BedError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
