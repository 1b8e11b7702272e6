"""The host's own Debian mirrors, from both of apt's formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.apt_sources import Mirrors, mirrors, read_sources

DEB822 = """\
Types: deb deb-src
# URIs: http://commented.example/debian
URIs: http://one.example/debian/
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://one.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://two.example/debian bookworm main contrib # note
deb-src http://two.example/source bookworm main
deb http://two.example/debian-security bookworm-security main
"""


def host(root: Path, **files: str) -> Path:
    """Make /etc/apt below ``root`` with sources.list and sources.list.d files."""
    parts = root / "etc/apt/sources.list.d"
    parts.mkdir(parents=True)
    for name, text in files.items():
        path = root / "etc/apt/sources.list" if name == "main" else parts / name.replace("__", ".")
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "release", "expected"),
    [
        ({"debian__sources": DEB822}, "bookworm", Mirrors("http://one.example/debian", "http://one.example/debian-security")),
        # The same archives hold the other releases.
        ({"debian__sources": DEB822}, "trixie", Mirrors("http://one.example/debian", "http://one.example/debian-security")),
        ({"main": ONE_LINE}, "bookworm", Mirrors("http://two.example/debian", "http://two.example/debian-security")),
        # A source of the release itself wins over one that comes first.
        ({"main": ONE_LINE.replace("bookworm", "trixie"), "d__sources": DEB822}, "bookworm",
         Mirrors("http://one.example/debian", "http://one.example/debian-security")),
        ({}, "bookworm", Mirrors(None, None)),
        ({"main": "deb http://x.example/ubuntu noble main\n"}, "bookworm", Mirrors(None, None)),
        ({"d__sources": DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n")}, "bookworm",
         Mirrors("http://one.example/debian", None)),
        ({"main": "deb cdrom:[Debian 12]/ bookworm main\ndeb http://x.example/a bookworm contrib\n"}, "bookworm",
         Mirrors(None, None)),
        ({"main": "deb http://x.example/backports bookworm-backports main\n"}, "bookworm", Mirrors(None, None)),
        ({"main": "deb http://x.example/security buster/updates main\n"}, "bookworm", Mirrors(None, None)),
        ({"vendor__list": "deb https://vendor.example/apt stable main\n", "z__list": ONE_LINE}, "bookworm",
         Mirrors("http://two.example/debian", "http://two.example/debian-security")),
        ({"ignored__save": ONE_LINE}, "bookworm", Mirrors(None, None)),
    ],
)  # fmt: skip
def test_mirrors_of_a_host(tmp_path: Path, files: dict[str, str], release: str, expected: Mirrors) -> None:
    assert mirrors(read_sources(host(tmp_path, **files)), release) == expected


def test_a_file_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    root = host(tmp_path, main=ONE_LINE)
    (root / "etc/apt/sources.list.d/broken.list").write_bytes(b"deb \xff\xfe")
    assert len(read_sources(root)) == 2
