"""Layer Debian: what the operating system in the image is made of, and what of its build must not be in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Lines = Callable[[str], list[str]]


def test_the_tree_really_is_an_image(image: Host) -> None:
    assert image.file("/usr/lib/systemd/systemd").exists
    assert image.file("/opt/vllmd/bin/python").exists


def test_release_is_the_manifests(image: Host, manifest: dict[str, Any]) -> None:
    assert f"VERSION_CODENAME={manifest['debian']['release']}" in image.file("/etc/os-release").content_string


def test_packages_are_those_of_the_manifest(lines: Lines, manifest: dict[str, Any]) -> None:
    rows = (line.split() for line in lines("dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n'"))
    assert {name: version for name, version, status in rows if status == "ii"} == manifest["packages"]


def test_no_package_is_half_installed(lines: Lines) -> None:
    assert lines("dpkg --audit") == []


@pytest.mark.parametrize(
    "package", ["systemd", "udev", "acpid", "ca-certificates", "openssh-server", "nftables", "iproute2"]
)
def test_package_is_installed(image: Host, package: str) -> None:
    assert image.package(package).is_installed


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("gcc", "nothing is compiled in a guest"),
        ("g++", "nothing is compiled in a guest"),
        ("ld", "nothing is linked in a guest"),
        ("as", "nothing is assembled in a guest"),
        ("make", "nothing is built in a guest"),
        ("dkms", "modules are built with the image"),
        ("pip", "packages are installed with the image"),
        ("pip3", "packages are installed with the image"),
        ("cloud-init", "the config image configures"),
        ("sudo", "there is one user"),
        ("telnet", "no plain-text logins"),
        ("rsh", "no plain-text logins"),
        ("ftp", "no plain-text transfers"),
        ("nc", "no tool for others"),
        ("tcpdump", "no tool for others"),
        ("gdb", "nobody looks into the engine"),
        ("strace", "nobody looks into the engine"),
        ("curl", "no downloads"),
        ("wget", "no downloads"),
    ],
)
def test_program_is_not_there(image: Host, program: str, why: str) -> None:
    assert not image.exists(program), why


def test_there_is_one_kernel_and_it_is_the_manifests(image: Host, manifest: dict[str, Any]) -> None:
    assert image.file("/lib/modules").listdir() == [manifest["kernel_release"]]
    assert image.file("/boot").listdir() == [f"config-{manifest['kernel_release']}"]


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("SSH host keys", "find /etc/ssh -name 'ssh_host_*'"),
        ("authorized keys", "find /root /home /etc /var -name 'authorized_keys*'"),
        (
            "private keys",
            "grep -rlIE --exclude='*.pyc' --exclude='*.so*' --exclude='*.safetensors' "
            "'^-----BEGIN ([A-Z]+ )?PRIVATE KEY-----$' /etc /home /opt /root /srv /usr /var || [ $? = 1 ]",
        ),
        ("password hashes", "awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow"),
        ("group passwords", "awk -F: '$2 !~ /^[!*]*$/ {print $1}' /etc/gshadow"),
        ("passwords outside of shadow", "awk -F: '$2 != \"x\" {print $1}' /etc/passwd"),
        ("a machine id", "grep -v uninitialized /etc/machine-id || [ $? = 1 ]"),
        ("a random seed", "find /var/lib/systemd -name random-seed -o -name credential.secret"),
        (
            "histories and credentials",
            "find /root /home /etc -name '.*_history' -o -name .netrc -o -name .pypirc -o -name pip.conf",
        ),
        ("a mirror's or proxy's address", "grep -rIsE '(https?|ftp)://|Proxy' /etc/apt || [ $? = 1 ]"),
        ("package sources", "find /etc/apt -name '*.list' -o -name '*.sources'"),
        ("package lists and archives", "find /var/lib/apt/lists /var/cache/apt -type f -not -name lock"),
        ("name servers of the builder", "grep -rsl ^nameserver /etc || [ $? = 1 ]"),
        ("proxies in the environment", "grep -is proxy /etc/environment || [ $? = 1 ]"),
        ("logs of the build", "find /var/log -type f -size +0"),
        (
            "parts of the build tool",
            "find / -xdev -maxdepth 3 -iname '*dib-*' -o -xdev -maxdepth 3 -iname '*diskimage*'",
        ),
        ("device nodes", "find / -xdev '(' -type b -o -type c ')'"),
        ("sockets and pipes", "find / -xdev '(' -type s -o -type p ')'"),
    ],
)
def test_image_holds_no(lines: Lines, what: str, command: str) -> None:
    found = lines(command)
    assert not found, f"the image holds {what}: {found}"


def test_homes_and_data_directories_are_empty(lines: Lines) -> None:
    assert (
        lines("find /home /srv /media /mnt /opt -mindepth 1 -maxdepth 1 -not -path /opt/vllmd -not -path /opt/cni")
        == []
    )


def test_host_name_and_network_come_from_the_config_image(tree: Path) -> None:
    assert (tree / "etc/hostname").read_text(encoding="utf-8") == "vllmd\n"
    assert str((tree / "etc/resolv.conf").readlink()) == "/run/vllmd/resolv.conf"
    assert str((tree / "etc/hosts").readlink()) == "/run/vllmd/hosts"
    assert list((tree / "etc/systemd/network").iterdir()) == []


@pytest.mark.parametrize(
    "unit",
    [
        "getty@.service", "serial-getty@.service", "console-getty.service", "ssh.service", "ssh.socket",
        "apt-daily.timer", "apt-daily-upgrade.timer", "systemd-logind.service", "dbus.service",
        "systemd-random-seed.service",
    ],
)  # fmt: skip
def test_unit_is_masked(image: Host, unit: str) -> None:
    assert image.file(f"/etc/systemd/system/{unit}").linked_to == "/dev/null"


def test_journal_stays_in_memory_and_small(lines: Lines) -> None:
    shown = lines("systemd-analyze cat-config systemd/journald.conf")
    assert {"Storage=volatile", "RuntimeMaxUse=32M", "RateLimitIntervalSec=30s", "RateLimitBurst=20000"} <= set(shown)
