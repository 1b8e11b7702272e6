"""Module kubernetes_packages: apt knows the source and its key before it is asked, and a dry run writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import host_files
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Done
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_packages as module

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"


class Apt:
    """dpkg and apt of a host without a package, whose one source offers kubelet 1.33.1."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.installed = False
        self.calls: list[str] = []

    def __call__(self, argv: Sequence[str], **_given: Any) -> Done:
        said = ""
        if argv[0] == "dpkg-query" and self.installed:
            said = "kubelet 1.33.1-1.1 hi \n"
        elif argv[:2] == ["apt-mark", "showhold"] and self.installed:
            said = "kubelet\n"
        elif argv[:2] == ["apt-cache", "madison"]:
            said = f"   kubelet | 1.33.1-1.1 | file:{self.source} Packages\n"
        elif argv[0] == "apt-get":
            verb = next(each for each in argv if each in ("update", "install"))
            assert self.source.exists(), "apt is asked before it knows the source"
            self.calls.append(verb)
            self.installed = self.installed or verb == "install"
        return Done(0, said, said)


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Apt:
    made = Apt(tmp_path / "sources.list.d/kubernetes.sources")
    monkeypatch.setattr(module, "run", made)
    monkeypatch.setattr(module, "KUBELET_CONFIG", tmp_path / "config.yaml")
    return made


def bring(apt: Apt, *, is_dry: bool = False, source: str = "Types: deb\n") -> dict[str, Any]:
    files = [
        {"path": str(apt.source), "content": source},
        {"path": str(apt.source.with_name("key.asc")), "content": KEY},
    ]
    given = {"hold": ["kubelet"], "directory": None, "source_list": str(apt.source), "files": files}
    return module.bring(SimpleNamespace(check_mode=is_dry), given, {"kubelet": "1.33.1"})


def test_the_source_is_there_before_apt_is_asked(apt: Apt) -> None:
    dry = bring(apt, is_dry=True)
    assert not apt.source.parent.exists()
    assert apt.calls == []
    done = bring(apt)
    assert done["changed"]
    assert dry["changed"]
    assert done["written"] == dry["written"] == [str(apt.source), str(apt.source.with_name("key.asc"))]
    assert [each["after"] for each in done["diff"][:2]] == ["Types: deb\n", KEY]
    assert apt.calls == ["update", "install"]
    assert apt.source.stat().st_mode & 0o777 == 0o644
    again = bring(apt)
    assert (again["changed"], again["written"], again["installed"]) == (False, [], [])


def test_another_source_is_a_change_of_its_own(apt: Apt) -> None:
    bring(apt)
    other = bring(apt, source="Types: deb\nURIs: https://packages.example.com\n")
    assert (other["changed"], other["written"], other["installed"]) == (True, [str(apt.source)], [])
    assert apt.calls == ["update", "install"]


def test_what_cannot_be_written_is_said_in_one_line(apt: Apt) -> None:
    apt.source.mkdir(parents=True)
    with pytest.raises(host_files.FilesError, match=r"kubernetes.sources is not a file; move it away"):
        bring(apt)
    assert apt.calls == []
