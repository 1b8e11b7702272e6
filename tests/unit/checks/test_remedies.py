"""Remedies are typed as they stand: the commands that change files do to a copy what they say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import drop_parameter, set_parameter, sysctl
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import make_policy
from ansible_collections.vllmd.platform.plugins.module_utils.checks.run import run_checks
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import ConfigFile, Host
from tests.support.healthy_host import changed, healthy_host
from tests.support.spoilt_hosts import SPOILT


def first_command(remedy: str, root: Path) -> None:
    """Run the remedy up to its first &&, with the host's files below ``root``."""
    command = remedy.partition(" && ")[0].replace("/etc/", f"{root}/")
    subprocess.run(["/bin/sh", "-ec", command], check=True)


def loader(name: str, *settings: ConfigFile) -> Host:
    return changed("boot", loader=name, loader_settings=settings)(healthy_host())


@pytest.mark.parametrize(
    ("before", "parameter", "after"),
    [
        ("quiet iommu=pt intel_iommu=on", "iommu=", "quiet intel_iommu=on"),
        ("intel_iommu=off quiet", "intel_iommu=", " quiet"),
        ("a vfio_iommu_type1.allow_unsafe_interrupts=1", "vfio_iommu_type1.allow_unsafe_interrupts=", "a"),
    ],
)
def test_a_parameter_is_removed_and_no_other(tmp_path: Path, before: str, parameter: str, after: str) -> None:
    (tmp_path / "default").mkdir()
    grub = tmp_path / "default/grub"
    grub.write_text(f'GRUB_CMDLINE_LINUX="{before}"\n')
    host = loader("grub", ConfigFile("/etc/default/grub", 1, "GRUB_CMDLINE_LINUX", before))
    first_command(drop_parameter(host, parameter), tmp_path)
    assert grub.read_text() == f'GRUB_CMDLINE_LINUX="{after}"\n'


def test_a_parameter_is_removed_where_it_stands() -> None:
    setting = ConfigFile("/etc/default/grub.d/50 site.cfg", 1, "GRUB_CMDLINE_LINUX", "iommu=pt")
    assert " '/etc/default/grub.d/50 site.cfg' && update-grub" in drop_parameter(loader("grub", setting), "iommu=")


def test_parameters_add_up_for_grub(tmp_path: Path) -> None:
    (tmp_path / "default/grub.d").mkdir(parents=True)
    for parameter in ("intel_iommu=on", "hugepages=4"):
        first_command(set_parameter(loader("grub"), parameter), tmp_path)
    told = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f'GRUB_CMDLINE_LINUX=quiet; . {tmp_path}/default/grub.d/90-vllmd.cfg; echo "$GRUB_CMDLINE_LINUX"',
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "quiet intel_iommu=on hugepages=4\n"


def test_a_parameter_is_added_for_systemd_boot(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/cmdline").write_text("root=/dev/sda1 ro\n")
    first_command(set_parameter(loader("systemd-boot"), "intel_iommu=on"), tmp_path)
    assert (tmp_path / "kernel/cmdline").read_text() == "root=/dev/sda1 ro intel_iommu=on\n"


def test_each_sysctl_has_a_file_of_its_own() -> None:
    assert "/etc/sysctl.d/90-vllmd-vm-overcommit_memory.conf" in sysctl("vm.overcommit_memory=0")


@pytest.mark.parametrize("case", SPOILT, ids=[f"{case[0]}-{case[3]}-{case[4]}" for case in SPOILT])
def test_commands_are_ones_that_a_shell_can_read(case: tuple[str, ...]) -> None:
    check, change, policy = case[0], case[1], case[2]
    for finding in run_checks(change(healthy_host()), make_policy(policy)).findings:  # type: ignore[operator, arg-type]
        known = (
            "echo ",
            "sed ",
            "apt-get ",
            "for ",
            "systemctl ",
            "kill ",
            "modprobe ",
            "printf ",
            "chmod ",
            "chgrp ",
            "dpkg ",
        )
        if finding.id != check or not finding.remedy.startswith(known):
            continue
        # Words for the reader come after a comma or a semicolon; the command is what stands before them.
        command = finding.remedy.split(", ")[0].split("; at each boot")[0].split(" (not ")[0]
        told = subprocess.run(["/bin/sh", "-n", "-c", command], check=False, capture_output=True, text=True)
        assert told.returncode == 0, f"{command}: {told.stderr}"
