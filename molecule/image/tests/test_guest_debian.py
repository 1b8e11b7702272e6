"""Layer Debian, running: kernel, mounts, units, what the boot left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["ansible://guest"]
Said = dict[str, str]


@pytest.fixture(scope="module")
def said(ask: Callable[[dict[str, str]], Said]) -> Said:
    return ask(
        {
            "release": "uname --kernel-release",
            "failed": "systemctl list-units --failed --no-legend --plain",
            "state": "systemctl is-system-running",
            "jobs": "systemctl list-jobs --no-legend",
            "timers": "systemctl list-timers --no-legend",
            "mounts": "cat /proc/mounts",
            "read-only": "cat /sys/block/vda/ro",
            "write": "dd if=/dev/zero of=/dev/vda bs=512 count=1",
            "overlay": "touch /etc/written-by-test && rm /etc/written-by-test && echo written",
            "machine-id": "cat /etc/machine-id",
            "getty": "systemctl list-units --no-legend --plain '*getty*'",
            "terminals": "ps -e -o tty= -o comm= | awk '$1 != \"?\" && $1 !~ /^pts/'",
            "journal": "find /run/log/journal /var/log/journal -type f -name '*.journal'",
            "clock": "date +%s",
            "tainted": "cat /proc/sys/kernel/tainted",
        }
    )


def test_kernel_is_the_manifests(said: Said, manifest: dict[str, Any]) -> None:
    assert said["release"] == manifest["kernel_release"]


def test_no_unit_failed_and_nothing_is_waited_for(said: Said) -> None:
    assert said["failed"] == ""
    assert said["jobs"] == ""
    assert said["state"] == "running"


def test_nothing_runs_by_the_clock(said: Said) -> None:
    assert [line for line in said["timers"].splitlines() if "vllmd-monitoring.timer" not in line] == []


def test_the_root_file_system_is_read_only_underneath(said: Said) -> None:
    assert said["read-only"] == "1"
    assert "not permitted" in said["write"] or "Read-only" in said["write"]
    assert said["overlay"] == "written"


@pytest.mark.parametrize(
    ("place", "kind", "options"),
    [
        ("/", "overlay", {"nosuid", "nodev"}),
        ("/tmp", "tmpfs", {"nosuid", "nodev", "noexec"}),
        ("/var/tmp", "tmpfs", {"nosuid", "nodev", "noexec"}),
        ("/dev/shm", "tmpfs", {"nosuid", "nodev", "noexec"}),
        ("/run", "tmpfs", {"nosuid", "nodev"}),
        ("/proc", "proc", {"nosuid", "nodev", "noexec"}),
        ("/sys", "sysfs", {"nosuid", "nodev", "noexec"}),
        ("/run/vllmd/config", "iso9660", {"ro", "nosuid", "nodev", "noexec"}),
    ],
)
def test_mount_options(said: Said, place: str, kind: str, options: set[str]) -> None:
    mounts = {line.split()[1]: line.split()[2:4] for line in said["mounts"].splitlines()}
    assert mounts[place][0] == kind
    assert options <= set(mounts[place][1].split(","))


def test_the_machine_id_is_this_boots_own(said: Said) -> None:
    assert len(said["machine-id"]) == 32


def test_nobody_can_log_in_on_a_console(said: Said) -> None:
    assert said["getty"] == ""
    assert said["terminals"] == ""


def test_the_journal_is_in_memory(said: Said) -> None:
    assert {line.split("/")[1] for line in said["journal"].splitlines() if line.startswith("/")} == {"run"}


def test_the_kernel_is_not_tainted(said: Said) -> None:
    """No unsigned, foreign or failed part is in it."""
    assert said["tainted"] == "0"
