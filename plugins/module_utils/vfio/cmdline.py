# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The kernel's command line in the boot loader's files: words are added and taken away again, nothing is replaced.

GRUB reads /etc/default/grub.d/*.cfg after /etc/default/grub (Debian's grub-mkconfig), so a file of our own appends.
systemd-boot's words stand in /etc/kernel/cmdline (kernel-install(8), for kernels to come) and on the `options` lines of
loader/entries/*.conf (the Boot Loader Specification). What was added to which file is remembered, so that exactly that
goes away again and words that were there before stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..host.model import ConfigFile, Host

GRUB, SYSTEMD_BOOT, NONE = "grub", "systemd-boot", "none"
GRUB_DROP_IN = "/etc/default/grub.d/90-vllmd-vfio.cfg"
KERNEL_CMDLINE = "/etc/kernel/cmdline"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:=[A-Za-z0-9._,:;@/+%-]+)?")
_OPTIONS = re.compile(r"options[ \t]")
# Values that switch off what passthrough needs; they stand there because somebody wanted it so.
_AGAINST = {
    "intel_iommu": ("off",),
    "amd_iommu": ("off",),
    "iommu": ("off", "soft"),
    "intremap": ("off",),
    "nointremap": ("",),
}


class CmdlineError(ValueError):
    """A command line that cannot be written or contradicts itself: one line."""


@dataclass(frozen=True)
class Change:
    """One file before and after; None is a file that is not there."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Edit:
    """The files to change, and for each file the words that are ours in it from then on."""

    changes: tuple[Change, ...] = ()
    added: dict[str, tuple[str, ...]] = field(default_factory=dict)


def iommu_parameters(host: Host) -> tuple[str, ...]:
    """Return the words that passthrough needs on this host's command line.

    Intel's IOMMU is off by default in some kernels; AMD's and arm64's are on. ``iommu=pt`` is not among them: it spares
    the host's own devices the translation, but then a device that comes back from a guest may write all memory.
    """
    return ("intel_iommu=on",) if host.cpu.vendor == "intel" else ()


def unmet(host: Host, parameters: Iterable[str]) -> tuple[str, ...]:
    """Return the parameters whose effect the running kernel lacks: only these are worth a reboot."""
    met = set()
    if host.iommu.is_on and host.iommu.units:
        met.add("intel_iommu=on")
    if host.iommu.default_domain == "passthrough":
        met.add("iommu=pt")
    words = (host.boot.cmdline or "").split()
    return tuple(each for each in parameters if each not in met and not _has(words, each))


def check(host: Host, parameters: Iterable[str]) -> None:
    """Raise CmdlineError for a parameter that cannot be written, or that a setting of somebody else contradicts."""
    for parameter in parameters:
        if not _WORD.fullmatch(parameter):
            raise CmdlineError(f"kernel parameter {parameter!r} is no single word name or name=value without quotes")
    for setting in host.boot.loader_settings:
        for word in setting.value.split():
            name, _equals, value = word.partition("=")
            if set(value.split(",")) & set(_AGAINST.get(name, ())):
                where = f"{setting.path} line {setting.line}"
                raise CmdlineError(f"{where} says {word}, with which passthrough cannot work; remove it there")


def grub(settings: Iterable[ConfigFile], before: str | None, parameters: Iterable[str]) -> Edit:
    """Return GRUB's drop-in with those parameters that no other file has; ``before`` is its text now."""
    theirs = [each.value for each in settings if each.name.startswith("GRUB_") and each.path != GRUB_DROP_IN]
    others = [word for value in theirs for word in value.split()]
    words = tuple(each for each in parameters if not _has(others, each))
    after = None
    if words:
        after = (
            "# Written by vllmd.platform (role vfio); its state unbound removes it.\n"
            f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(words)}"\n'
        )
    changes = (Change(GRUB_DROP_IN, before, after),) if before != after else ()
    return Edit(changes, {GRUB_DROP_IN: words} if words else {})


def systemd_boot(
    files: Mapping[str, str], added: Mapping[str, Iterable[str]], previous: Mapping[str, str], parameters: Iterable[str]
) -> Edit:
    """Return the edit of /etc/kernel/cmdline and the loader's entries, given as path to text.

    ``added`` are the words that an earlier edit added to each file, ``previous`` the texts before it. A file that is
    new since then, such as the entry of a new kernel, was made from one that had our words.
    """
    parameters = tuple(parameters)
    every = tuple(dict.fromkeys(word for words in added.values() for word in words))
    changes, now = [], {}
    for path, text in files.items():
        ours = tuple(added.get(path, every))
        plain = _without(path, text, ours)
        old = previous.get(path)
        if old is not None and _with(path, old, ours) == text:
            plain = old
        words = tuple(each for each in parameters if not _has(_words(path, plain), each))
        after = _with(path, plain, words)
        if after != text:
            changes.append(Change(path, text, after))
        if words:
            now[path] = words
    return Edit(tuple(changes), now)


def _has(words: Iterable[str], parameter: str) -> bool:
    """Return whether a command line says ``parameter``, alone or among the comma-separated values of its name."""
    name, _equals, value = parameter.partition("=")
    for word in words:
        other, _equals, values = word.partition("=")
        if word == parameter or (value and other == name and value in values.split(",")):
            return True
    return False


def _words(path: str, text: str) -> list[str]:
    lines = text.splitlines()
    if not _is_entry(path):
        return [word for line in lines for word in line.split()]
    return [word for line in lines if _OPTIONS.match(line) for word in line.split()[1:]]


def _with(path: str, text: str, words: tuple[str, ...]) -> str:
    """Return ``text`` with ``words`` at the end of its command line."""
    if not words:
        return text
    lines = text.splitlines(keepends=True)
    numbers = [number for number, line in enumerate(lines) if _holds(path, line)]
    if not numbers:
        start = "options " if _is_entry(path) else ""
        end = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{end}{start}{' '.join(words)}\n"
    body = lines[numbers[-1]].rstrip("\r\n")
    ending = lines[numbers[-1]][len(body) :]
    lines[numbers[-1]] = f"{body.rstrip()} {' '.join(words)}{ending}"
    return "".join(lines)


def _without(path: str, text: str, words: tuple[str, ...]) -> str:
    """Return ``text`` without the last occurrence of each of ``words`` on its command line."""
    lines = text.splitlines(keepends=True)
    for word in reversed(words):
        pattern = re.compile(rf"[ \t]+{re.escape(word)}(?!\S)|^{re.escape(word)}(?!\S)[ \t]*")
        for number in reversed(range(len(lines))):
            found = list(pattern.finditer(lines[number])) if _holds(path, lines[number]) else []
            if found:
                lines[number] = lines[number][: found[-1].start()] + lines[number][found[-1].end() :]
                break
    return "".join(lines)


def _holds(path: str, line: str) -> bool:
    """Return whether a line belongs to the command line."""
    return bool(_OPTIONS.match(line)) if _is_entry(path) else bool(line.strip()) and not line.lstrip().startswith("#")


def _is_entry(path: str) -> bool:
    return path.endswith(".conf")
