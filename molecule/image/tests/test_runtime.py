"""Layer runtime: the project's own units and programs."""

from __future__ import annotations

import json
import py_compile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Lines = Callable[[str], list[str]]
ENABLED = [
    "sysinit.target.wants/vllmd-configure.service",
    "sysinit.target.wants/vllm.service",
    "sysinit.target.wants/vllmd-firewall.service",
    "multi-user.target.wants/vllmd-healthy.service",
    "multi-user.target.wants/vllmd-ssh.service",
    "multi-user.target.wants/vllmd-resolve.service",
    "multi-user.target.wants/systemd-networkd.service",
    "multi-user.target.wants/containerd.service",
    "multi-user.target.wants/acpid.service",
]


@pytest.mark.parametrize("link", ENABLED)
def test_unit_is_enabled(image: Host, link: str) -> None:
    assert image.file(f"/etc/systemd/system/{link}").is_symlink


def test_the_guest_boots_to_multi_user(image: Host) -> None:
    assert Path(image.file("/etc/systemd/system/default.target").linked_to).name == "multi-user.target"


def test_systemd_finds_no_fault_in_our_units(lines: Lines, units: dict[str, Path]) -> None:
    names = " ".join(name for name in units if "@" not in name)
    assert lines(f"systemd-analyze verify --man=no {names} 2>&1") == []


def test_every_program_of_ours_is_valid_python(tree: Path, tmp_path: Path) -> None:
    for path in sorted((tree / "usr/lib/vllmd").rglob("*.py")):
        py_compile.compile(str(path), cfile=str(tmp_path / "compiled"), doraise=True)


def test_programs_of_ours_are_roots(lines: Lines) -> None:
    assert lines("find /usr/lib/vllmd /usr/share/vllmd /etc/vllmd '(' -not -user root -o -perm /022 ')'") == []


def test_the_engines_user(image: Host) -> None:
    user = image.user("vllmd")
    assert (user.uid, user.gid, user.shell, user.home) == (700, 700, "/usr/sbin/nologin", "/var/lib/vllmd")
    assert user.groups == ["vllmd"]


def test_the_engine_writes_to_one_directory(lines: Lines) -> None:
    assert lines("find / -xdev -user vllmd -type d -not -path '/var/lib/vllmd/cache/*'") == ["/var/lib/vllmd/cache"]


def test_the_engines_unit_names_the_unprivileged_user(units: dict[str, Path]) -> None:
    unit = units["vllm.service"].read_text(encoding="utf-8").splitlines()
    assert {"User=vllmd", "Group=vllmd", "CapabilityBoundingSet=", "NoNewPrivileges=yes"} <= set(unit)


def test_profile_is_the_manifests(image: Host, manifest: dict[str, Any]) -> None:
    assert json.loads(image.file("/usr/share/vllmd/facts.d/profile.json").content_string) == manifest["profile"]


def test_the_power_button_ends_the_guest(image: Host) -> None:
    assert "systemctl --no-block poweroff" in image.file("/etc/acpi/events/vllmd-power-button").content_string


def test_nothing_of_a_runtime_is_in_the_image(tree: Path) -> None:
    assert list((tree / "etc/vllmd").glob("engine*")) == []
    assert not (tree / "etc/systemd/network/10-vllmd.network").exists()
