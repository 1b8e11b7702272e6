"""A directory of Python modules, kept exactly as given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import modules

TEXTS = {"__init__.py": "", "cli.py": "print('{{ no template }}')\n"}


def keep(root: Path, texts: dict[str, str], *, check: bool = False) -> dict[str, Any]:
    given = {"path": str(root / "lib/package"), "modules": texts}
    return modules.run("python_package", given, root, check=check)


def test_written_once_and_kept(tmp_path: Path) -> None:
    assert keep(tmp_path, TEXTS, check=True)["written"] == ["__init__.py", "cli.py"]
    assert not (tmp_path / "lib").exists()
    assert keep(tmp_path, TEXTS)["changed"]
    assert (tmp_path / "lib/package/cli.py").read_text() == TEXTS["cli.py"]
    again = keep(tmp_path, TEXTS)
    assert (again["changed"], again["written"], again["removed"]) == (False, [], [])


def test_only_what_differs_is_touched(tmp_path: Path) -> None:
    keep(tmp_path, TEXTS)
    package = tmp_path / "lib/package"
    (package / "old.py").write_text("")
    (package / "notes.txt").write_text("not ours")
    (package / "__init__.py").chmod(0o600)
    result = keep(tmp_path, {**TEXTS, "cli.py": "print(1)\n"})
    assert (result["written"], result["removed"]) == (["__init__.py", "cli.py"], ["old.py"])
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "cli.py", "notes.txt"]


@pytest.mark.parametrize("name", ["../cli.py", "a/cli.py", "cli.txt", ".."])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    result = keep(tmp_path, {name: ""})
    assert result["failed"]
    assert result["msg"] == f"modules: {name!r} is no file name of a Python module, such as cli.py"


def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("a file")
    result = keep(tmp_path, TEXTS)
    assert result["failed"]
    assert result["msg"].startswith(f"cannot keep the package in {tmp_path}/lib/package: ")
