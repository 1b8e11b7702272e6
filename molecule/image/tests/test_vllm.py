"""Layer vLLM: the Python environment is what the lock says, complete, and nobody's to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Lines = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def site(tree: Path) -> Path:
    return next((tree / "opt/vllmd/lib").glob("python3.*/site-packages"))


def test_wheels_are_those_of_the_manifest(site: Path, manifest: dict[str, Any]) -> None:
    found = {}
    for directory in site.glob("*.dist-info"):
        head = (directory / "METADATA").read_text(encoding="utf-8").split("\n\n")[0]
        fields = dict(line.split(": ", 1) for line in head.splitlines() if line.startswith(("Name: ", "Version: ")))
        found[fields["Name"].lower().replace("_", "-")] = fields["Version"]
    assert found == manifest["wheels"]


def test_wheels_are_those_of_the_lock(manifest: dict[str, Any]) -> None:
    lock = Path(__file__).parents[3] / f"image-elements/vllmd-vllm/requirements/{manifest['profile']}.txt"
    pinned = dict(
        line.split(" ")[0].split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line
    )
    assert {name.lower().replace("_", "-"): version for name, version in pinned.items()} == manifest["wheels"]


@pytest.mark.parametrize("package", ["pip", "setuptools_scm", "pytest"])
def test_no_installer_and_no_build_tool(site: Path, package: str) -> None:
    assert not (site / package).exists()


def test_no_headers_and_no_static_libraries(lines: Lines) -> None:
    assert lines("find /opt/vllmd -name '*.a' -o -path '*/torch/include' -o -path '*/torch/test'") == []


def test_everything_is_compiled(site: Path) -> None:
    """An uncompiled package costs its compilation at every start: the root is read-only underneath."""
    missing = [
        path.parent.name
        for path in site.glob("*/__init__.py")
        if not list((path.parent / "__pycache__").glob("__init__.cpython-*.pyc"))
    ]
    assert missing == []


def test_it_belongs_to_root_and_nobody_else_may_write(lines: Lines) -> None:
    assert lines("find /opt/vllmd -not -type l '(' -not -user root -o -perm /022 ')'") == []


def test_its_libraries_find_what_they_link_to(lines: Lines) -> None:
    command = (
        "cd /opt/vllmd/lib/python3.*/site-packages && export LD_LIBRARY_PATH=$PWD/torch/lib && "
        "ldd vllm/*.so | grep 'not found' || [ $? = 1 ]"
    )
    assert lines(command) == []


def test_it_reports_no_usage_and_downloads_nothing_by_itself(image: Host) -> None:
    environment = image.file("/usr/lib/vllmd/engine.env").content_string.splitlines()
    assert {"VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1"} <= set(environment)
