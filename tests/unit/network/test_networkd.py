"""systemd-networkd itself makes bridge and taps, in a network namespace; the launcher opens one without privilege."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import guest_of, network_of
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network_files import (
    NETWORKD,
    guest_files,
    network_files,
)

DAEMON = Path("/lib/systemd/systemd-networkd")
LAUNCHER = Path(__file__).parents[3] / "roles/hypervisor/files"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not DAEMON.exists(),
    reason="runs systemd-networkd in namespaces of its own",
)

NETWORK = network_of({})
GUESTS = [guest_of(NETWORK, "a", "10.213.0.10"), guest_of(NETWORK, "b", "10.213.0.11")]
#: Without /sys to write to, networkd takes a link for ready as there is no udev to say so; nor is there one that opens
#: /dev/net/tun to everybody, as udev's own rules do.
SCRIPT = """
set -eu
mount -t tmpfs tmpfs /run
mount --bind "$1" /etc/systemd/network
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod --mode=666 /dev/net/tun c 10 200
{daemon} >"$2" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || :' EXIT
for _ in $(seq 100); do
    [ "$(ip -d link show | grep -c 'isolated on')" = 2 ] && break
    sleep 0.1
done
ip -j -d link show
ip -j address show
"$3" -ISc "$4" "$5" "$6"
"""
OPEN = """
import os, pwd, sys
sys.path.insert(0, sys.argv[1])
from vllmd_hypervisor.tap import open_tap
os.setgroups([])
os.setuid(pwd.getpwnam("nobody").pw_uid)  # which also ends every capability
print(open_tap(sys.argv[2], "", persistent=False)[0] > 0)
"""


def test_networkd_isolates_the_taps_and_the_launcher_needs_no_capability(tmp_path: Path) -> None:
    files = network_files(NETWORK)
    for guest in GUESTS:
        files |= guest_files(NETWORK, guest, "nobody")
    directory = tmp_path / "network"
    directory.mkdir()
    for path, text in files.items():
        if path.startswith(NETWORKD):
            (directory / Path(path).name).write_text(text)
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith("pytest-"):
            path.chmod(path.stat().st_mode | 0o011)  # networkd reads them as a user of its own
    tmp_path.chmod(0o755)
    arguments = [directory, tmp_path / "log", sys.executable, OPEN, LAUNCHER, GUESTS[0].tap]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", SCRIPT.format(daemon=DAEMON), "sh", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    links, addresses, opened = done.stdout.splitlines()
    made: dict[str, dict[str, Any]] = {each["ifname"]: each for each in json.loads(links)}
    for guest in GUESTS:
        link = made[guest.tap]
        assert link["master"] == NETWORK.bridge
        assert link["linkinfo"]["info_slave_data"]["isolated"] is True
        assert link["linkinfo"]["info_data"]["user"] == "nobody"
    bridge = next(each for each in json.loads(addresses) if each["ifname"] == NETWORK.bridge)
    assert [each["local"] for each in bridge["addr_info"]] == [NETWORK.gateway]
    assert opened == "True"
