# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which Debian packages a node lacks, which version of each is to be installed, and where the operator's come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import NodeError

_LINE = re.compile(r"deb(?:[ \t]+\[([^]\n]*)\])?[ \t]+(\S+)[ \t]+(\S+)(?:[ \t]+(.*))?")
_UNSAFE = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")
_DIGEST_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S+)")


@dataclass(frozen=True)
class Installed:
    """A package as dpkg has it."""

    version: str
    is_held: bool


def upstream(version: str) -> str:
    """Return the upstream part of a Debian version (deb-version(7)): ``1.33.1`` of ``1:1.33.1-1.1``."""
    return (
        version.partition(":")[2].rpartition("-")[0] or version.partition(":")[2]
        if ":" in version
        else (version.rpartition("-")[0] or version)
    )


def is_wanted(version: str, wanted: str) -> bool:
    """Return whether an installed or offered Debian ``version`` is what ``wanted`` asks for; empty asks for any."""
    return not wanted or upstream(version) == wanted.removeprefix("v")


def lacking(wanted: Mapping[str, str], installed: Mapping[str, Installed]) -> dict[str, str]:
    """Return the packages of ``wanted`` (name to version, empty for any) that are missing or have another version."""
    return {
        name: version
        for name, version in wanted.items()
        if name not in installed or not is_wanted(installed[name].version, version)
    }


def refuse_older_kubelet(wanted: Mapping[str, str], installed: Mapping[str, Installed]) -> None:
    """Raise NodeError when a node would get a kubelet that is older than its own, as after an upgrade of the cluster.

    A kubelet does not go back with its pods (kubernetes.io, "Upgrading kubeadm clusters"), and nobody asked for it.
    """
    version, own = wanted.get("kubelet", "").removeprefix("v"), installed.get("kubelet")
    if own is None or not _NUMBERS.fullmatch(version) or not _NUMBERS.fullmatch(upstream(own.version)):
        return
    newer = upstream(own.version)
    if [int(part) for part in newer.split(".")] > [int(part) for part in version.split(".")]:
        raise NodeError(
            f"kubelet {newer} is installed on this node and {version} is asked for; after an upgrade set "
            f"kubernetes_node_version: {newer} in the inventory, or let the node leave before it gets an older one"
        )


def read_status(text: str, held: Iterable[str]) -> dict[str, Installed]:
    """Return what is installed, from lines ``NAME VERSION STATUS`` of dpkg-query (status ``ii`` or ``hi``)."""
    marked = set(held)
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2][1:] == "i":
            found[fields[0]] = Installed(fields[1], fields[0] in marked)
    return found


def read_offers(text: str) -> dict[str, list[str]]:
    """Return the versions of each package, newest first, from apt-cache madison (``NAME | VERSION | SOURCE``)."""
    offers: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = [part.strip() for part in line.split("|")]
        if len(fields) == 3 and not fields[2].endswith(" Sources"):
            versions = offers.setdefault(fields[0], [])
            if fields[1] not in versions:
                versions.append(fields[1])
    return offers


def choose(lacks: Mapping[str, str], offers: Mapping[str, Sequence[str]], where: str) -> list[str]:
    """Return ``NAME=VERSION`` for each package, the newest that is wanted. Raises NodeError, which names what lacks."""
    chosen, missing = [], []
    for name, wanted in sorted(lacks.items()):
        version = next((offer for offer in offers.get(name, ()) if is_wanted(offer, wanted)), None)
        if version is not None:
            chosen.append(f"{name}={version}")
        elif offers.get(name):
            missing.append(f"{name} {wanted} (there is {', '.join(list(offers[name])[:4])})")
        else:
            missing.append(f"{name} {wanted}".strip())
    if missing:
        raise NodeError(f"{where} has no {'; no '.join(missing)}; correct the version, or add the package there")
    return chosen


def source(line: str, key_path: str) -> str:
    """Return apt's source in deb822 for one line ``deb URI SUITE [COMPONENT...]``, signed by ``key_path`` alone.

    Raises NodeError for anything else, and for options that ask apt not to check signatures.
    """
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise NodeError(
            f"kubernetes_node_repository: {line.strip()[:100]!r} is no apt source; write one line 'deb "
            f"URI SUITE COMPONENT'"
        )
    options = dict(part.partition("=")[::2] for part in (match[1] or "").lower().split())
    for option in _UNSAFE:
        if str(options.get(option, "no")).lower() in ("yes", "true", "1"):
            raise NodeError(
                f"kubernetes_node_repository: {option}={options[option]}; only signed repositories are used"
            )
    if not re.match(r"(https?://|file:/)", match[2]):
        raise NodeError(f"kubernetes_node_repository: {match[2]}: only https, http and file are possible")
    lines = ["Types: deb", f"URIs: {match[2]}", f"Suites: {match[3]}"]
    if match[4]:
        lines.append(f"Components: {match[4].strip()}")
    if options.get("arch"):
        lines.append(f"Architectures: {options['arch'].replace(',', ' ')}")
    lines.append(f"Signed-By: {key_path}")
    return "\n".join(lines) + "\n"


def read_digests(text: str) -> dict[str, str]:
    """Return SHA-256 by file name from what ``sha256sum *.deb > SHA256SUMS`` writes. Raises NodeError."""
    entries = {}
    for line in text.splitlines():
        match = _DIGEST_LINE.fullmatch(line.strip())
        if match is None or "/" in match[2].removeprefix("./"):
            raise NodeError(f"SHA256SUMS: {line.strip()[:80]!r}; write what 'sha256sum *.deb' says")
        entries[match[2].removeprefix("./")] = match[1]
    if not entries:
        raise NodeError("SHA256SUMS is empty; write what 'sha256sum *.deb' says")
    return entries
