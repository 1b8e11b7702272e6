"""Layer hardening, in the image itself: who may log in, what has more rights than its user, what may be loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

Lines = Callable[[str], list[str]]
THRESHOLDS = yaml.safe_load((Path(__file__).parents[1] / "files/unit-exposure.yml").read_text(encoding="utf-8"))
SSHD = "/usr/sbin/sshd -T -f /etc/vllmd/sshd_config"


@pytest.fixture(scope="module")
def files(tree: Path) -> list[tuple[str, os.stat_result]]:
    """Every file of the image with its status, links not followed; mounts left out."""
    device = (tree / "usr").stat().st_dev
    found = []
    for directory, below, names in os.walk(tree):
        below[:] = [name for name in below if os.lstat(f"{directory}/{name}").st_dev == device]
        for name in (*below, *names):
            found.append((f"{directory}/{name}", os.lstat(f"{directory}/{name}")))
    return found


@pytest.fixture(scope="module")
def sshd(lines: Lines) -> dict[str, str]:
    """What sshd makes of the operator's configuration: option in lower case -> value."""
    lines("mkdir -p /run/sshd /run/vllmd/ssh && ssh-keygen -q -t ed25519 -N '' -f /run/vllmd/ssh/host_key")
    return dict(line.partition(" ")[::2] for line in lines(SSHD))


@pytest.mark.parametrize("unit", sorted(THRESHOLDS))
def test_exposure_of(tree: Path, lines: Lines, unit: str) -> None:
    if not (tree / "usr/lib/systemd/system" / unit).exists():
        return  # of an element that this image is made without
    highest, reason = THRESHOLDS[unit]["highest"], THRESHOLDS[unit]["reason"]
    said = lines(f"systemd-analyze security --no-pager --offline=yes {unit} 2>&1 | tail -n 1")[0]
    exposure = float(said.rpartition(": ")[2].split()[0])
    assert exposure <= highest, f"{said}; at most {highest}: {reason}"


def test_every_unit_of_ours_has_a_threshold(units: dict[str, Path]) -> None:
    assert units.keys() <= THRESHOLDS.keys()


def test_nobody_has_a_password(lines: Lines) -> None:
    assert {line.split(":")[1] for line in lines("cat /etc/shadow")} == {"*"}


def test_only_root_has_a_shell(lines: Lines) -> None:
    shells = {line.split(":")[0]: line.split(":")[6] for line in lines("cat /etc/passwd")}
    assert [user for user, shell in shells.items() if shell not in ("/usr/sbin/nologin", "/bin/false")] == ["root"]


def test_only_root_has_user_id_0(lines: Lines) -> None:
    assert [line.split(":")[0] for line in lines("cat /etc/passwd") if line.split(":")[2] == "0"] == ["root"]


@pytest.mark.parametrize("database", ["passwd", "group"])
def test_names_and_numbers_are_unique(lines: Lines, database: str) -> None:
    rows = [line.split(":") for line in lines(f"cat /etc/{database}")]
    for column in (0, 2):
        values = [row[column] for row in rows]
        assert len(values) == len(set(values))


@pytest.mark.parametrize(
    ("path", "mode", "group"),
    [
        ("/etc/passwd", 0o644, "root"),
        ("/etc/group", 0o644, "root"),
        ("/etc/shadow", 0o640, "shadow"),
        ("/etc/gshadow", 0o640, "shadow"),
        ("/etc/vllmd/sshd_config", 0o644, "root"),
        ("/root", 0o700, "root"),
        ("/etc/issue", 0o644, "root"),
    ],
)
def test_permissions_of(image: Host, path: str, mode: int, group: str) -> None:
    found = image.file(path)
    assert (found.user, found.group, found.mode) == ("root", group, mode)


def test_no_program_has_a_set_id_bit(files: list[tuple[str, os.stat_result]]) -> None:
    assert [path for path, status in files if stat.S_ISREG(status.st_mode) and status.st_mode & 0o6000] == []


def test_no_program_has_file_capabilities(files: list[tuple[str, os.stat_result]]) -> None:
    regular = [path for path, status in files if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111]
    assert [path for path in regular if "security.capability" in os.listxattr(path)] == []


def test_nobody_else_may_write_to_a_file(files: list[tuple[str, os.stat_result]]) -> None:
    assert [path for path, status in files if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o002] == []


def test_every_file_belongs_to_somebody(lines: Lines, files: list[tuple[str, os.stat_result]]) -> None:
    users = {int(line.split(":")[2]) for line in lines("cat /etc/passwd")}
    groups = {int(line.split(":")[2]) for line in lines("cat /etc/group")}
    assert [path for path, status in files if status.st_uid not in users or status.st_gid not in groups] == []


def test_programs_are_where_only_root_may_write(lines: Lines) -> None:
    """Each directory of root's PATH, and of the units'."""
    directories = "/usr/local/sbin /usr/local/bin /usr/sbin /usr/bin"
    assert lines(f"find -L {directories} -maxdepth 0 '(' -not -user root -o -perm /022 ')'") == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("permitrootlogin", "without-password"),
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("permitemptypasswords", "no"),
        ("hostbasedauthentication", "no"),
        ("authenticationmethods", "publickey"),
        ("authorizedkeysfile", "/run/vllmd/ssh/authorized_keys"),
        ("allowusers", "root"),
        ("usepam", "no"),
        ("x11forwarding", "no"),
        ("disableforwarding", "yes"),
        ("permittunnel", "no"),
        ("permituserenvironment", "no"),
        ("permituserrc", "no"),
        ("maxauthtries", "3"),
        ("logingracetime", "30"),
        ("maxstartups", "10:30:60"),
        ("clientaliveinterval", "200"),
        ("loglevel", "VERBOSE"),
        ("strictmodes", "yes"),
        ("ignorerhosts", "yes"),
    ],
)
def test_sshd_option(sshd: dict[str, str], option: str, value: str) -> None:
    assert sshd[option] == value


def test_sshd_offers_no_weak_algorithm(sshd: dict[str, str]) -> None:
    kinds = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms")
    offered = " ".join(sshd[kind] for kind in kinds)
    for weak in ("cbc", "arcfour", "3des", "md5", "ssh-rsa,", "ssh-dss", "group1-sha1", "group14-sha1", "ripemd"):
        assert weak not in offered


def test_sshd_runs_only_with_an_operators_key(units: dict[str, Path]) -> None:
    assert "ConditionPathExists=/run/vllmd/ssh/authorized_keys" in units["vllmd-ssh.service"].read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    "unit", ["debug-shell", "emergency", "rescue", "getty@", "serial-getty@", "console-getty", "nftables"]
)
def test_no_other_way_to_a_shell_or_a_rule(image: Host, unit: str) -> None:
    assert image.file(f"/etc/systemd/system/{unit}.service").linked_to == "/dev/null"


def test_no_network_without_the_packet_filter(image: Host) -> None:
    drop_in = image.file("/etc/systemd/system/systemd-networkd.service.d/10-vllmd-firewall.conf").content_string
    assert {"Requires=vllmd-firewall.service", "After=vllmd-firewall.service"} <= set(drop_in.splitlines())


def test_nothing_but_the_packet_filters_own_rules(image: Host) -> None:
    """A rule file of an element opens ports; here are those that may."""
    assert set(image.file("/etc/vllmd/firewall.d").listdir()) <= {"50-kubernetes-node.nft"}


@pytest.mark.parametrize(
    "module", ["dccp", "sctp", "rds", "tipc", "can", "cramfs", "hfs", "jffs2", "udf", "usb-storage", "firewire-core"]
)
def test_module_cannot_be_loaded(lines: Lines, manifest: dict[str, Any], module: str) -> None:
    """Either this kernel has no such module, or modprobe would run /bin/false instead."""
    release = manifest["kernel_release"]
    shown = lines(f"modprobe --set-version {release} --show-depends {module} 2>/dev/null || true")
    assert not [line for line in shown if line.startswith("insmod") and f"/{module}.ko" in line]


def test_core_dumps_are_off(lines: Lines) -> None:
    assert {"DumpCore=no", "DefaultLimitCORE=0"} <= set(lines("systemd-analyze cat-config systemd/system.conf"))


def test_new_files_of_root_are_roots_alone(lines: Lines) -> None:
    assert lines("awk '$1 == \"UMASK\" {print $2}' /etc/login.defs") == ["077"]


def test_banners_do_not_tell_the_release(lines: Lines) -> None:
    assert lines("grep -iE 'debian|\\\\[a-z]' /etc/issue /etc/issue.net || [ $? = 1 ]") == []
    assert lines("cat /etc/motd") == []


def test_no_schedules(tree: Path, image: Host) -> None:
    """Nothing runs by the clock: every timer that a package enabled is masked, and there is no cron."""
    enabled = [*tree.glob("etc/systemd/system/*.wants/*.timer"), *tree.glob("usr/lib/systemd/system/*.wants/*.timer")]
    ours = "vllmd-monitoring.timer"  # once, 15 minutes after the boot
    masks = [tree / "etc/systemd/system" / path.name for path in enabled if path.name != ours]
    assert [mask.name for mask in masks if not mask.is_symlink() or str(mask.readlink()) != "/dev/null"] == []
    assert not image.exists("cron")


def test_command_line_is_hardened(manifest: dict[str, Any]) -> None:
    words = manifest["cmdline"].split()
    assert {"ro", "slab_nomerge", "vsyscall=none", "debugfs=off", "oops=panic"} <= set(words)
    assert "lockdown=integrity" in words or manifest["profile"] == "cuda"
    assert not [
        word for word in words if word.startswith(("systemd.debug", "init=", "rd.break", "single", "mitigations="))
    ]
