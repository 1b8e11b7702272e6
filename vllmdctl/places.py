# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Where things lie: the collection's playbooks, a person's environment, and logs.

The directory with ``ansible.cfg`` and ``collection/ansible_collections/vllmd/platform`` is the checkout that this
package lies in, or the copy that an installed package carries (``_platform``); both look the same from here.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .errors import USAGE, CtlError

_COLLECTION = Path("collection/ansible_collections/vllmd/platform")


def platform_directory() -> Path:
    """Return the directory with ``ansible.cfg``. Raises CtlError when the installation is not whole."""
    here = Path(__file__).resolve().parent
    for directory in (here / "_platform", here.parent):
        if (directory / _COLLECTION / "playbooks").is_dir():
            return directory
    raise CtlError(f"the playbooks of vllmd.platform are missing beside {here}; install vllmdctl again")


def collection_directory() -> Path:
    """Return the collection's root."""
    return platform_directory() / _COLLECTION


def use_collection() -> None:
    """Let Python import the collection's own modules, so that things are judged here as on the hosts."""
    root = str(platform_directory() / "collection")
    if root not in sys.path:
        sys.path.insert(0, root)


def write_file(path: Path, text: str) -> None:
    """Put ``text`` in the file's place, whole or not at all. Raises OSError, and then leaves no temporary file."""
    use_collection()
    from ansible_collections.vllmd.platform.plugins.module_utils import atomic

    atomic.write_file(path, text.encode(), 0o644)


def playbook(name: str) -> Path:
    """Return the playbook of a verb."""
    return collection_directory() / "playbooks" / f"{name}.yml"


def program(name: str) -> str:
    """Return a program of this Python environment, such as ansible-playbook, else one on PATH. Raises CtlError."""
    directories = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    path = shutil.which(name, path=directories)
    if path is None:
        raise CtlError(f"{name} is not beside {sys.executable}; install vllmdctl again, with its dependencies")
    return path


def _base(variable: str, default: str) -> Path:
    """Return a base directory as the XDG Base Directory Specification has it; a relative one counts as none."""
    named = Path(os.environ.get(variable) or "")
    return (named if named.is_absolute() else Path.home() / default) / "vllmd"


def environment_directory() -> Path:
    """Return the directory that ``initialize environment`` makes: ``~/.config/vllmd``."""
    return _base("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Return where logs and what was learnt about endpoints are kept: ``~/.local/state/vllmd``."""
    return _base("XDG_STATE_HOME", ".local/state")


def inventory(named: str | None) -> Path:
    """Return the inventory: the one named, or the environment's. Raises CtlError."""
    path = Path(named).expanduser() if named else environment_directory() / "inventory"
    if path.exists():
        return path.absolute()
    if named:
        raise CtlError(f"there is no inventory {named}; name a directory or file with -i", USAGE)
    raise CtlError(
        f"there is no environment in {path.parent}; make one with 'vllmdctl initialize environment', "
        "or name an inventory with -i",
        USAGE,
    )


def manifests_directory(inventory_path: Path) -> Path:
    """Return where ``apply`` keeps the manifests of an inventory: ``runtimes`` beside its hosts."""
    return (inventory_path if inventory_path.is_dir() else inventory_path.parent) / "runtimes"


def make_private_directory(path: Path) -> Path:
    """Make a directory that only its owner may read. Raises CtlError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CtlError(f"cannot make {path}: {error.strerror}; set XDG_STATE_HOME or XDG_CONFIG_HOME") from None
    return path
