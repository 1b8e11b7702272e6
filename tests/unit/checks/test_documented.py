"""docs/precheck.md says exactly what the registry and the policy say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.checks import catalog
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import Check

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/precheck.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_code() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts/document-checks"), "--check"], check=False)
    assert done.returncode == 0, "run scripts/document-checks"


@pytest.mark.parametrize("check", catalog.checks(), ids=lambda check: check.id)
def test_each_check_is_documented(check: Check) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.id)
    assert f"| `{check.id}` |" in PAGE
    assert check.title and not check.title.endswith(".")
    assert check.why.endswith("."), "why is a sentence"
    assert check.reference
    assert check.examine.__doc__, "the function says what gives which status"


def test_images_of_the_page_are_there_and_small() -> None:
    images = re.findall(r"!\[[^]]+]\(([^)]+)\)", PAGE)
    assert len(images) >= 3
    for image in images:
        assert 1000 < (ROOT / "docs" / image).stat().st_size < 200_000, image
