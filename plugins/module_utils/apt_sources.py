# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The Debian mirrors that a host itself uses, from its apt configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_DEBIAN_SUITE = re.compile(
    r"^(bookworm|trixie|forky|bullseye|sid|stable|testing|unstable|oldstable)"
    r"(-updates|-backports|-security|/updates|-proposed-updates)?$"
)
_ONE_LINE = re.compile(r"^deb(?:\s+\[[^]]*\])?\s+(\S+)\s+(\S+)(?:\s+(.*))?$")


@dataclass(frozen=True)
class Source:
    """One archive that apt reads: its address, suites (``bookworm``) and components (``main``)."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True)
class Mirrors:
    """Addresses of the Debian archive and of its security archive; None where the host names none."""

    debian: str | None
    security: str | None


def read_sources(root: Path = Path("/")) -> list[Source]:
    """Return the binary package sources below ``root``'s ``/etc/apt``, in apt's order (sources.list(5)).

    Files that cannot be read or decoded are passed over, as apt's own files are not this collection's to judge.
    """
    apt = root / "etc/apt"
    parts = apt / "sources.list.d"
    files = [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    sources: list[Source] = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if path.suffix == ".sources":
            sources.extend(_deb822(text))
        elif path.suffix == ".list":
            sources.extend(_one_line(text))
    return sources


def _one_line(text: str) -> Iterator[Source]:
    for raw in text.splitlines():
        match = _ONE_LINE.match(raw.partition("#")[0].strip())
        if match:
            uri, suite, components = match.groups()
            yield Source(uri, (suite,), tuple((components or "").split()))


def _deb822(text: str) -> Iterator[Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += " " + line.strip()
            elif ":" in line:
                name, _colon, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0") or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            yield Source(uri, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split()))


def mirrors(sources: Iterable[Source], release: str) -> Mirrors:
    """Return the mirrors for the Debian ``release`` (``bookworm``).

    A source of that release wins over one of another release, whose archive holds this release too. Only http(s) and
    file addresses count, since an image build fetches with debootstrap.
    """
    debian: list[tuple[bool, str]] = []
    security: list[tuple[bool, str]] = []
    for source in sources:
        if not source.uri.startswith(("http://", "https://", "file:")) or "main" not in source.components:
            continue
        for suite in source.suites:
            match = _DEBIAN_SUITE.match(suite)
            if match is None:
                continue
            other = match.group(1) != release
            is_security = match.group(2) in ("-security", "/updates")
            # A backport or proposed-updates archive of its own need not hold the release.
            if is_security or match.group(2) in (None, "-updates"):
                (security if is_security else debian).append((other, source.uri.rstrip("/")))
    return Mirrors(_first(debian), _first(security))


def _first(found: list[tuple[bool, str]]) -> str | None:
    return min(found, key=lambda each: each[0])[1] if found else None
