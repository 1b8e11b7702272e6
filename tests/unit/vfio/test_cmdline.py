"""The command line in GRUB's and systemd-boot's files: merged, idempotent, and exactly undone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.host import model as m
from ansible_collections.vllmd.platform.plugins.module_utils.vfio import cmdline
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.cmdline import (
    GRUB_DROP_IN,
    KERNEL_CMDLINE,
    CmdlineError,
)
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.cmdline_files import Files, Result

ENTRY = "/boot/efi/loader/entries/debian-6.12.conf"
ENTRY_TEXT = "title Debian\nversion 6.12\noptions root=UUID=1 ro quiet\nlinux /vmlinuz\n"
INTEL = ("intel_iommu=on", "iommu=pt")


def host(
    loader: str = "grub", running: str = "root=/dev/sda1 ro", settings: str = "quiet", vendor: str = "intel"
) -> m.Host:
    return m.Host(
        cpu=m.Cpu(vendor=vendor),
        boot=m.Boot(
            cmdline=running,
            loader=loader,
            loader_settings=(m.ConfigFile("/etc/default/grub", 10, "GRUB_CMDLINE_LINUX", settings),),
            esp_paths=("/boot/efi",),
        ),
    )


def write(root: Path, path: str, text: str) -> Path:
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def bring(root: Path, on: m.Host, *extra: str, present: bool = True, check: bool = False) -> Result:
    """Bring the files of ``on`` to what passthrough needs, with iommu=pt as a site may ask for it, and ``extra``."""
    return Files(root, on).bring(("iommu=pt", *extra), present, check)


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_grub_gets_a_file_of_its_own_that_appends(tmp_path: Path) -> None:
    said = bring(tmp_path, host(), check=True)
    assert tree(tmp_path) == {}
    write(tmp_path, "/boot/grub/grub.cfg", "the menu\n")
    result = bring(tmp_path, host())
    assert (tmp_path / "var/lib/vllmd/vfio/previous/boot/grub/grub.cfg").read_text() == "the menu\n"
    assert (result.changes, result.stale, result.unmet, result.reboot_needed) == (said.changes, True, INTEL, True)
    drop_in = tmp_path / GRUB_DROP_IN.lstrip("/")
    line = 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on iommu=pt"\n'
    assert drop_in.read_text().endswith(line)
    shell = f'GRUB_CMDLINE_LINUX="crashkernel=1G"; . {drop_in}; printf %s "$GRUB_CMDLINE_LINUX"'
    done = subprocess.run(["sh", "-c", shell], check=True, capture_output=True, text=True)
    assert done.stdout == "crashkernel=1G intel_iommu=on iommu=pt"
    again = bring(tmp_path, host())
    assert (again.changes, again.stale) == ([], True), "GRUB's menu has not been made again yet"
    (tmp_path / "var/lib/vllmd/vfio/boot-loader-stale").unlink()
    assert bring(tmp_path, host()).stale is False
    gone = bring(tmp_path, host(), present=False)
    assert (gone.stale, gone.unmet) == (True, ())
    assert set(tree(tmp_path)) == {"boot/grub/grub.cfg", "var/lib/vllmd/vfio/boot-loader-stale"}


def test_grub_words_of_others_are_not_repeated(tmp_path: Path) -> None:
    result = bring(tmp_path, host(settings="quiet intel_iommu=on,sm_on"))
    assert "intel_iommu" not in (result.changes[0].after or "")
    assert bring(tmp_path / "other", host(settings="intel_iommu=on iommu=pt")).changes == []


def test_a_foreign_file_of_our_name_is_kept(tmp_path: Path) -> None:
    write(tmp_path, GRUB_DROP_IN, "# mine\n")
    bring(tmp_path, host())
    assert (tmp_path / f"var/lib/vllmd/vfio/previous{GRUB_DROP_IN}").read_text() == "# mine\n"


def test_systemd_boot_is_extended_and_exactly_undone(tmp_path: Path) -> None:
    on = host("systemd-boot")
    write(tmp_path, KERNEL_CMDLINE, "root=UUID=1 ro  quiet \n")
    write(tmp_path, ENTRY, ENTRY_TEXT)
    before = tree(tmp_path)
    result = bring(tmp_path, on, "pcie_acs_override=downstream,multifunction")
    assert (result.stale, len(result.changes)) == (False, 2)
    added = "intel_iommu=on iommu=pt pcie_acs_override=downstream,multifunction"
    assert (tmp_path / ENTRY[1:]).read_text() == ENTRY_TEXT.replace("quiet", f"quiet {added}")
    assert (tmp_path / KERNEL_CMDLINE[1:]).read_text() == f"root=UUID=1 ro  quiet {added}\n"
    assert bring(tmp_path, on, "pcie_acs_override=downstream,multifunction").changes == []
    kept = tmp_path / "var/lib/vllmd/vfio/previous"
    assert (kept / ENTRY[1:]).read_text() == ENTRY_TEXT
    assert len(bring(tmp_path, on).changes) == 2, "a parameter that is not asked for any more goes"
    bring(tmp_path, on, present=False)
    assert tree(tmp_path) == before


def test_systemd_boot_entry_of_a_new_kernel_loses_our_words_and_others_keep_theirs(tmp_path: Path) -> None:
    on = host("systemd-boot")
    theirs = write(tmp_path, ENTRY.replace("6.12", "6.1"), "options root=UUID=1 iommu=pt\n")
    write(tmp_path, ENTRY, ENTRY_TEXT)
    bring(tmp_path, on)
    assert theirs.read_text() == "options root=UUID=1 iommu=pt intel_iommu=on\n"
    new = write(tmp_path, ENTRY.replace("6.12", "6.13"), "options root=UUID=1 quiet intel_iommu=on iommu=pt splash\n")
    write(tmp_path, ENTRY, (tmp_path / ENTRY[1:]).read_text().replace("quiet", "loud"))
    bring(tmp_path, on, present=False)
    assert new.read_text() == "options root=UUID=1 quiet splash\n"
    assert theirs.read_text() == "options root=UUID=1 iommu=pt\n"
    assert (tmp_path / ENTRY[1:]).read_text() == ENTRY_TEXT.replace("quiet", "loud")


@pytest.mark.parametrize(
    ("on", "extra", "said"),
    [
        (host(settings="intel_iommu=off"), (), "/etc/default/grub line 10 says intel_iommu=off, with which"),
        (host(settings="iommu=off,pt"), (), "says iommu=off,pt"),
        (host(settings="nointremap"), (), "says nointremap"),
        (host(), ("a b",), "kernel parameter 'a b' is no single word"),
        (host(), ('x="$(reboot)"',), "is no single word"),
        (host("systemd-boot"), (), "there is neither /etc/kernel/cmdline nor"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(on: m.Host, extra: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(CmdlineError) as refused:
        bring(tmp_path, on, *extra)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(tmp_path) == {}


def test_a_spoiled_memory_is_said(tmp_path: Path) -> None:
    write(tmp_path, "/var/lib/vllmd/vfio/cmdline.json", "[]")
    with pytest.raises(CmdlineError, match="cannot be read"):
        bring(tmp_path, host())


def test_without_a_boot_loader_nothing_is_written(tmp_path: Path) -> None:
    result = bring(tmp_path, host("none"))
    assert (result.loader, result.unmet, result.reboot_needed, tree(tmp_path)) == ("none", INTEL, False, {})
    assert bring(tmp_path, replace(host(), boot=m.Boot(cmdline="ro"))).loader == "none"


def test_only_what_the_running_kernel_lacks_is_worth_a_reboot() -> None:
    on = m.Iommu(units=(m.IommuUnit("dmar0", "intel"),), groups={1: m.IommuGroup(1)})
    assert cmdline.unmet(replace(host(), iommu=on), INTEL) == ("iommu=pt",)
    assert cmdline.unmet(replace(host(), iommu=replace(on, default_domain="passthrough")), INTEL) == ()
    assert cmdline.unmet(host(running="ro intel_iommu=on,sm_on iommu=pt"), INTEL) == ()
    assert cmdline.unmet(host(), (*INTEL, "pci=realloc")) == (*INTEL, "pci=realloc")


def test_what_passthrough_needs_by_processor() -> None:
    assert cmdline.iommu_parameters(host(vendor="intel")) == ("intel_iommu=on",)
    assert cmdline.iommu_parameters(host(vendor="amd")) == ()
    assert cmdline.iommu_parameters(host(vendor="arm")) == ()


WORDS = st.lists(
    st.sampled_from(["ro", "quiet", "iommu=pt", "iommu=nopt", "a=b", "a=b,c", "intel_iommu=on", "x"]), max_size=6
)
SPACES = st.sampled_from([" ", "  ", "\t"])


@given(WORDS, WORDS, SPACES, st.sampled_from(["", "\n", " \n", "\n\n"]), st.booleans())
def test_adding_and_taking_away_restores_every_byte(
    present: list[str], wanted: list[str], space: str, end: str, is_entry: bool
) -> None:
    path = ENTRY if is_entry else KERNEL_CMDLINE
    before = ("title A\noptions " if is_entry else "") + space.join(present) + end
    parameters = list(dict.fromkeys(wanted))
    edit = cmdline.systemd_boot({path: before}, {}, {}, parameters)
    after = edit.changes[0].after if edit.changes else before
    assert after is not None
    again = cmdline.systemd_boot({path: after}, edit.added, {path: before}, parameters)
    assert (again.changes, again.added) == ((), edit.added)
    back = cmdline.systemd_boot({path: after}, edit.added, {path: before}, ())
    assert (back.changes[0].after if back.changes else after) == before
    blind = cmdline.systemd_boot({path: after}, edit.added, {}, ())
    restored = blind.changes[0].after if blind.changes else after
    assert restored is not None
    assert restored.split() == before.split(), "without the previous file only blanks may differ"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.from_regex(cmdline._WORD, fullmatch=True), min_size=1, max_size=4, unique=True))
def test_no_parameter_is_anything_but_text_to_the_shell(words: list[str]) -> None:
    edit = cmdline.grub((), None, words)
    text = edit.changes[0].after or ""
    shell = f'GRUB_CMDLINE_LINUX=; {text}printf %s "$GRUB_CMDLINE_LINUX"'
    done = subprocess.run(["sh", "-c", shell], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) >= {
        word for word in words if not cmdline._has([w for w in words if w != word], word)
    }
