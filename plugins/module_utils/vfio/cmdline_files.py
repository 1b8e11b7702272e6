# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Bring the boot loader's files to a command line, remembering what was added and what was there before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import atomic
from ..host.model import Host
from . import cmdline
from .cmdline import GRUB, GRUB_DROP_IN, KERNEL_CMDLINE, NONE, SYSTEMD_BOOT, Change, CmdlineError, Edit

STATE_DIRECTORY = "var/lib/vllmd/vfio"
GRUB_MENU = "/boot/grub/grub.cfg"
LOADERS = (GRUB, SYSTEMD_BOOT, NONE)
_VERSION = 1


@dataclass
class Result:
    """``stale``: the boot loader's own configuration must be made again. ``unmet``: what the running kernel lacks."""

    loader: str
    parameters: tuple[str, ...]
    unmet: tuple[str, ...]
    changes: list[Change] = field(default_factory=list)
    stale: bool = False

    @property
    def reboot_needed(self) -> bool:
        """Return whether the next boot brings what the running kernel lacks."""
        return bool(self.unmet) and self.loader != NONE

    def diff(self) -> list[dict[str, Any]]:
        """Return the changes as Ansible shows them."""
        return [
            {
                "before": each.before or "",
                "after": each.after or "",
                "before_header": each.path if each.before is not None else f"{each.path} (absent)",
                "after_header": each.path if each.after is not None else f"{each.path} (absent)",
            }
            for each in self.changes
        ]


class Files:
    """The files of one host's boot loader below ``root``."""

    def __init__(self, root: Path, host: Host, loader: str = "auto") -> None:
        self._root = root
        self._host = host
        self._journal = root / STATE_DIRECTORY / "cmdline.json"
        self._previous = root / STATE_DIRECTORY / "previous"
        self._marker = root / STATE_DIRECTORY / "boot-loader-stale"
        self.loader = self._loader() if loader == "auto" else loader

    def bring(self, extra: Iterable[str], present: bool, check: bool) -> Result:
        """Put the IOMMU's parameters and ``extra`` on the command line, or take away what was put there.

        Raises CmdlineError, OSError.
        """
        parameters = tuple(dict.fromkeys((*cmdline.iommu_parameters(self._host), *extra))) if present else ()
        cmdline.check(self._host, parameters)
        added = self._added()
        edits = [self._grub(parameters if self.loader == GRUB else (), added)]
        edits.append(self._systemd_boot(parameters if self.loader == SYSTEMD_BOOT else (), added))
        changes = [change for edit in edits for change in edit.changes]
        now = {path: words for edit in edits for path, words in edit.added.items()}
        stale = any(change.path == GRUB_DROP_IN for change in changes)
        result = Result(self.loader, parameters, cmdline.unmet(self._host, parameters), changes, stale)
        if not check:
            self._write(changes, added, now, stale)
        result.stale = stale or self._marker.exists()
        return result

    def _loader(self) -> str:
        found = self._host.boot.loader
        return found if found in LOADERS else NONE

    def _grub(self, parameters: tuple[str, ...], added: Mapping[str, tuple[str, ...]]) -> Edit:
        before = self._read(GRUB_DROP_IN)
        if not parameters and GRUB_DROP_IN not in added:
            return Edit()
        return cmdline.grub(self._host.boot.loader_settings, before, parameters)

    def _systemd_boot(self, parameters: tuple[str, ...], added: Mapping[str, tuple[str, ...]]) -> Edit:
        ours = {path: words for path, words in added.items() if path != GRUB_DROP_IN}
        if not parameters and not ours:
            return Edit()
        paths = [KERNEL_CMDLINE, *self._entries(), *ours]
        texts = {path: text for path in dict.fromkeys(paths) if (text := self._read(path)) is not None}
        if parameters and not texts:
            raise CmdlineError(
                "systemd-boot starts this host, but there is neither /etc/kernel/cmdline nor a loader/entries/*.conf; "
                f"put {' '.join(parameters)} where the unified kernel image takes its command line from"
            )
        previous = {
            path: text for path in texts if (text := self._read(f"/{STATE_DIRECTORY}/previous{path}")) is not None
        }
        return cmdline.systemd_boot(texts, ours, previous, parameters)

    def _entries(self) -> list[str]:
        directories = dict.fromkeys((*self._host.boot.esp_paths, "/boot", "/efi", "/boot/efi"))
        found = []
        for directory in directories:
            for path in sorted(self._below(f"{directory}/loader/entries").glob("*.conf")):
                found.append(f"/{path.relative_to(self._root)}")
        return found

    def _write(
        self, changes: list[Change], added: Mapping[str, tuple[str, ...]], now: dict[str, tuple[str, ...]], stale: bool
    ) -> None:
        """Keep the previous files, remember what will be added, change, remember what was."""
        if changes:
            both = {path: (*added.get(path, ()), *now.get(path, ())) for path in {*added, *now}}
            self._remember({path: tuple(dict.fromkeys(words)) for path, words in both.items()})
        if stale:
            atomic.make_directory(self._marker.parent)
            atomic.write_file(self._marker, b"", 0o644)
            menu = self._read(GRUB_MENU)
            if menu is not None and not added:
                self._keep(GRUB_MENU, menu)
        for change in changes:
            path = self._below(change.path)
            if change.before is not None and change.path not in added:
                self._keep(change.path, change.before)
            if change.after is None:
                path.unlink(missing_ok=True)
                continue
            atomic.make_directory(path.parent)
            # VFAT, which boot loaders read, has one mode for all files: keep what the file has.
            mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
            atomic.write_file(path, change.after.encode(), mode)
        if dict(added) != now:
            self._remember(now)
        if not now:
            self._forget_previous()

    def _keep(self, path: str, text: str) -> None:
        """Keep a file as it is before its first change."""
        kept = self._previous / path.lstrip("/")
        atomic.make_directory(kept.parent)
        atomic.write_file(kept, text.encode(), 0o600)

    def _added(self) -> dict[str, tuple[str, ...]]:
        try:
            data = json.loads(self._journal.read_text(encoding="utf-8"))
            return {str(path): tuple(map(str, words)) for path, words in data["added"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CmdlineError(
                f"{self._journal}: what was added to the command line cannot be read ({error}); correct it, or remove "
                "it and take the words away by hand"
            ) from None

    def _remember(self, added: dict[str, tuple[str, ...]]) -> None:
        if not added:
            self._journal.unlink(missing_ok=True)
            return
        atomic.make_directory(self._journal.parent)
        text = json.dumps({"version": _VERSION, "added": added}, indent=2, sort_keys=True) + "\n"
        atomic.write_file(self._journal, text.encode(), 0o600)

    def _forget_previous(self) -> None:
        if self._previous.is_dir():
            for path in sorted(self._previous.rglob("*"), reverse=True):
                (path.rmdir if path.is_dir() else path.unlink)()
            self._previous.rmdir()

    def _read(self, path: str) -> str | None:
        try:
            return self._below(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise CmdlineError(f"{path} is no text ({error.reason}); it is left as it is") from None

    def _below(self, path: str) -> Path:
        return self._root / path.lstrip("/")
