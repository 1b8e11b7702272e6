"""The guest's own scripts as modules, and a document that they accept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ELEMENTS = Path(__file__).resolve().parents[3] / "image-elements"


def load(path: Path) -> ModuleType:
    """Import the file ``path`` as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def element_script() -> Callable[[str], ModuleType]:
    """A function that imports a script by its path below image-elements/."""
    return lambda path: load(ELEMENTS / path)


@pytest.fixture(scope="session")
def configure() -> ModuleType:
    return load(ELEMENTS / "vllmd-runtime/static/usr/lib/vllmd/configure.py")


@pytest.fixture(scope="session")
def engine() -> ModuleType:
    return load(ELEMENTS / "vllmd-runtime/static/usr/lib/vllmd/engine.py")


@pytest.fixture(scope="session")
def models() -> ModuleType:
    return load(ELEMENTS / "vllmd-model/lib/vllmd_models.py")


@pytest.fixture
def runtime(tmp_path: Path) -> dict[str, Any]:
    model = tmp_path / "smollm2"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return {
        "schema_version": 1,
        "name": "local",
        "uid": "0f8fad5b",
        "model": {"name": "smollm2", "path": str(model), "repository": "", "source": "local"},
        "engine": {"dtype": "float32", "enforce-eager": True, "compilation-config": {"mode": 0}},
        "environment": {"OMP_NUM_THREADS": "2"},
        "api": {"host": "192.0.2.5", "port": 8000},
        "hostname": "local",
        "ssh_authorized_keys": [],
        "network": {"mode": "static", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]},
    }
