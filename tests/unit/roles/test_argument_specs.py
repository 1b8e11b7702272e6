"""Every role's meta/argument_specs.yml says the same as its defaults/main.yml, and its README names every variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path.parents[1] for path in Path(__file__).parents[3].glob("roles/*/defaults/main.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_argument_specs_equal_defaults(role: Path) -> None:
    defaults = read(role / "defaults/main.yml") or {}
    options = read(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(defaults) <= set(options), "every default is a described option"
    for name, value in defaults.items():
        assert options[name].get("default") == value, name
    optional = {name for name in set(options) - set(defaults) if not options[name].get("required")}
    for name in optional:
        assert "default" not in options[name], f"{name} has a default that defaults/main.yml lacks"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variables_carry_the_roles_name_and_are_described(role: Path) -> None:
    options = read(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    readme = (role / "README.md").read_text()
    for name, option in options.items():
        assert name.startswith(f"{role.name}_"), name
        assert option.get("description"), name
        assert f"`{name}`" in readme, f"{name} is missing in {role.name}/README.md"
