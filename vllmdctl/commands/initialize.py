# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl initialize environment``: an inventory of one's own, and what this machine needs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .. import places
from ..errors import FAILED, CtlError
from ..output import say

app = typer.Typer(rich_markup_mode=None)

_MANIFESTS = """\
# Every Runtime in runtimes/ becomes a virtual machine; 'vllmdctl apply FILE' puts them there.
vllmd_runtime_manifests: "{{ query('ansible.builtin.fileglob', inventory_dir ~ '/runtimes/*.yaml') | sort }}"
"""
_DEVICES = """
# The accelerators that runtimes get ({}), bound to vfio-pci when runtimes are configured.
vfio_devices: [all]
# vfio_exclude: []  # addresses that the host keeps
"""


@app.callback()
def initialize() -> None:
    """Prepare this machine."""


@app.command("environment")
def environment(
    production: Annotated[
        bool, typer.Option("--production", help="For hosts of your own, reached by SSH: an inventory to edit.")
    ] = False,
    no_packages: Annotated[
        bool, typer.Option("--no-packages", help="Do not install the Debian packages that are missing on this machine.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Say what would be done, and do nothing.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Show the ansible-playbook command, too.")
    ] = 0,
) -> None:
    """Make an inventory (this machine, or your hosts) and install what is missing. What is there already stays."""
    from ..ansible import run
    from ..ansible_play import Play

    target = places.environment_directory() / "inventory"
    template = places.platform_directory() / "inventories" / ("example" if production else "local")
    if target.exists():
        say(f"the inventory {target} is there already and stays as it is")
    elif check:
        say(f"would make the inventory {target}")
    else:
        make_inventory(template, target, [] if production else accelerators())
        say(f"made the inventory {target}")
    if not no_packages:
        # The packages are this machine's business, so the play is about a machine that is only this one.
        play = Play(places.platform_directory() / "inventories/local", check=check, verbose=verbose)
        run(play, ["initialize"], "initialize environment").check()
    if production and not check:
        say(f"next: edit {target}/hosts.yml, then 'vllmdctl runtimes precheck'")
    elif not check:
        embedded = places.platform_directory() / "inventories/local/runtime.yaml"
        say(f"next: 'vllmdctl apply runtime.yaml'; {embedded} runs without a GPU")


def accelerators(sys: Path = Path("/sys")) -> list[str]:
    """Return the addresses of this machine's NVIDIA accelerators: display controllers of vendor 10de, class 03."""
    found = []
    for device in sorted((sys / "bus/pci/devices").glob("*")):
        try:
            vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:  # unplugged meanwhile
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            found.append(device.name)
    return found


def make_inventory(template: Path, target: Path, devices: Sequence[str] = ()) -> None:
    """Copy an inventory whose runtimes are those in its directory ``runtimes``. Raises CtlError.

    Where this machine has accelerators (``devices``) it gives them to runtimes; role vfio refuses what the host needs.
    """
    new = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)  # what an interrupted call left
        shutil.copytree(template, new, ignore=shutil.ignore_patterns("runtime*"))
        (new / "runtimes").mkdir()
        if devices:
            with (new / "group_vars/all.yml").open("a", encoding="utf-8") as variables:
                variables.write(_DEVICES.format(", ".join(devices)))
            say(f"accelerators for runtimes: {', '.join(devices)} (vfio_devices in {target}/group_vars/all.yml)")
        for name in ("all", "hypervisors"):
            path = new / "group_vars" / f"{name}.yml"
            if path.exists():
                path.write_text(own_manifests(path.read_text(encoding="utf-8")), encoding="utf-8")
        new.rename(target)
    except OSError as error:
        what = f"cannot make {target}: {error.strerror}"
        raise CtlError(f"{what}; correct the directory's owner or room, or set XDG_CONFIG_HOME", FAILED) from None


def own_manifests(text: str) -> str:
    """Return group variables with the inventory's directory ``runtimes`` in place of the list of manifests."""
    kept: list[str] = []
    skipping = False
    for line in text.splitlines(keepends=True):
        if line.startswith("vllmd_runtime_manifests:"):
            while kept and kept[-1].startswith("#"):
                kept.pop()  # the comment is about the list
            kept.append(_MANIFESTS)
            skipping = True
        elif not (skipping and line.startswith((" ", "-"))):
            skipping = False
            kept.append(line)
    return "".join(kept)
