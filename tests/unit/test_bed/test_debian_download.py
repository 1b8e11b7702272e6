"""Which mirrors a release is fetched from, and what is said when they have another version."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[3] / "molecule/shared/module_utils/debian_download.py"
# Answers like apt on a machine with the archive, its updates, backports and the security archive; one has one package.
APT = """#!/bin/sh
echo "$0 $*" >>"$(dirname "$0")/log"
archive=https://a.invalid/debian
case "$*" in
    *indextargets*) printf '%s\\n' "bookworm $archive" "bookworm-updates $archive" "bookworm-backports $archive" \
        'bookworm-security https://s.invalid/x' "bookworm $archive" ;;
    *madison*) echo ' golang | 1.19.9-1 | https://a.invalid/debian bookworm/main amd64 Packages' ;;
    *showsrc*) printf 'Package: kubernetes\\nVersion: 1.20.2-2\\n' ;;
    *download*) echo "E: Version was not found" >&2; exit 100 ;;
esac
"""


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which is no part of a package, with an apt of the test's own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "apt-cache"):
        (programs / name).write_text(APT)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    spec = importlib.util.spec_from_file_location("debian_download", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_machines_mirrors_are_used_once_each_and_without_backports(download: ModuleType, tmp_path: Path) -> None:
    download.Archive("trixie", tmp_path / "scratch")
    lines = (tmp_path / "scratch/sources.list").read_text().splitlines()
    signed = f"[signed-by={download.KEYRING}]"
    assert [line for line in lines if line.startswith("deb ")] == [
        f"deb {signed} https://a.invalid/debian trixie main",
        f"deb {signed} https://a.invalid/debian trixie-updates main",
        f"deb {signed} https://s.invalid/x trixie-security main",
    ]
    assert sum(line.startswith("deb-src ") for line in lines) == 3


def test_the_machines_own_lists_are_left_alone(download: ModuleType, tmp_path: Path) -> None:
    download.Archive("bookworm", tmp_path / "scratch")
    updates = [line for line in (tmp_path / "programs/log").read_text().splitlines() if line.endswith(" update")]
    assert len(updates) == 1
    assert f"-oDir::State::Lists={tmp_path}/scratch/lists" in updates[0]


@pytest.mark.parametrize("kind", ["packages", "source"])
def test_a_version_that_is_gone_names_what_is_there(download: ModuleType, tmp_path: Path, kind: str) -> None:
    archive = download.Archive("bookworm", tmp_path / "scratch")
    with pytest.raises(download.DownloadError) as refused:
        if kind == "packages":
            archive.packages({"golang": "1.19.8-2"}, tmp_path / "tree")
        else:
            archive.source("kubernetes", "1.20.2-1", tmp_path / "tree")
    there = "1.19.9-1" if kind == "packages" else "1.20.2-2"
    assert "Version was not found" in str(refused.value)
    assert str(refused.value).endswith(f"the mirrors have {there}: name one of them")


def test_no_mirror_is_one_sentence(download: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "programs/apt-get").write_text("#!/bin/sh\n")
    with pytest.raises(download.DownloadError, match="run apt-get update first"):
        download.mirrors()
