"""Small decisions of the engine's start, and what identifies a model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

HEADER = "Iface\tDestination\tGateway\tFlags\n"


def test_a_default_route_is_told_from_a_link_route(engine: ModuleType) -> None:
    link = "eth0\t0002000A\t00000000\t0001\n"
    assert not engine.has_default_route(HEADER)
    assert not engine.has_default_route(HEADER + link)
    assert engine.has_default_route(HEADER + link + "eth0\t00000000\t0202000A\t0003\n")


def test_a_models_digest_is_its_files_and_their_names(models: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        (directory / "sub").mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "sub/weights").write_bytes(b"1")
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").chmod(0o600)
    assert models.tree_digest(first) == models.tree_digest(second)
    (second / "sub/weights").rename(second / "sub/weight")
    assert models.tree_digest(first) != models.tree_digest(second)
