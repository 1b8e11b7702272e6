"""Role vfio's README agrees with what the modules do."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.vllmd.platform.plugins.module_utils.vfio import boot, cmdline, persist, refuse

README = (Path(__file__).parents[3] / "roles/vfio/README.md").read_text()


def test_readme_names_every_rule() -> None:
    codes = {value for name, value in vars(refuse).items() if name.isupper() and isinstance(value, str)} - {"shared"}
    assert len(codes) == 10
    assert [code for code in sorted(codes) if f"`{code}`" not in README] == []


def test_readme_names_every_file() -> None:
    paths = [persist.RULES, persist.NODE_RULES, persist.MODPROBE, persist.MODULES_LOAD, persist.UNIT, persist.PROGRAM]
    paths += [persist.HOOK, persist.DRACUT_CONF, boot.DEVICES_PATH, cmdline.GRUB_DROP_IN, cmdline.KERNEL_CMDLINE]
    assert [path for path in paths if path not in README] == []
