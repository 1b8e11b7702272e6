"""Manifest files: read, kept, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllmdctl import manifests
from vllmdctl.commands.initialize import own_manifests
from vllmdctl.errors import REFUSED, USAGE, CtlError

from .conftest import MANIFEST, ROOT


def named(name: str) -> str:
    """The manifest of a runtime of that name."""
    return MANIFEST.replace("name: smollm2\n", f"name: {name}\n", 1)


def write(path: Path, *names: str) -> Path:
    """Write the manifests of these runtimes into one file."""
    path.write_text("---\n".join(named(name).removeprefix("---\n") for name in names))
    return path


def test_each_runtime_of_a_file_keeps_its_own_text(tmp_path: Path) -> None:
    found = manifests.read([write(tmp_path / "two.yaml", "one", "two")])
    assert [each.name for each in found] == ["one", "two"]
    kept = tmp_path / "runtimes"
    assert [each.name for each in manifests.place(found, kept, {})] == ["one", "two"]
    assert [each.name for each in manifests.read([kept])] == ["one", "two"]
    assert "# vLLM's own options" in (kept / "two.yaml").read_text()  # comments, too


def test_one_runtime_is_kept_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "one.yaml", "one")
    kept = tmp_path / "runtimes"
    manifests.place(manifests.read([path]), kept, {})
    assert (kept / "one.yaml").read_text() == path.read_text()
    # again, now from where it is kept: nothing is new
    assert manifests.place(manifests.read([kept / "one.yaml"]), kept, {"one": str(kept / "one.yaml")}) == []
    assert [path.name for path in kept.iterdir()] == ["one.yaml"]


def test_a_file_that_the_inventory_reads_stays_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "one.yaml", "one")
    assert manifests.place(manifests.read([path]), tmp_path / "runtimes", {"one": str(path)}) == []
    assert not (tmp_path / "runtimes").exists()


def test_what_replaces_a_runtime_takes_its_place(tmp_path: Path) -> None:
    new = manifests.read([write(tmp_path / "new.yaml", "one")])
    assert manifests.union({"one": "/kept/one.yaml", "two": "/kept/two.yaml"}, new) == [
        "/kept/two.yaml",
        str(tmp_path / "new.yaml"),
    ]


def test_an_inventory_that_does_not_read_them_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "inv").mkdir()
    placed = manifests.place(manifests.read([write(tmp_path / "one.yaml", "one")]), tmp_path / "inv/runtimes", {})
    with pytest.raises(CtlError, match="add that directory to vllmd_runtime_manifests"):
        manifests.check_seen(tmp_path / "inv", placed, {"other": "/x.yaml"})
    assert list((tmp_path / "inv/runtimes").iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(CtlError, match="no-such-file") as caught:
        manifests.read([tmp_path / "no-such-file.yaml"])
    assert caught.value.status == REFUSED
    with pytest.raises(CtlError, match="holds no manifest") as caught:
        manifests.read([tmp_path])
    assert caught.value.status == USAGE
    path = tmp_path / "wrong.yaml"
    path.write_text(MANIFEST.replace("  resources:", "  resource:"))
    with pytest.raises(CtlError, match=r"wrong\.yaml:\d+:\d+: field spec\.resource") as caught:
        manifests.read([path])
    first, second = write(tmp_path / "a.yaml", "same"), write(tmp_path / "b.yaml", "same")
    with pytest.raises(CtlError, match="names are unique"):
        manifests.read([first, second])


@pytest.mark.parametrize("template", ["local/group_vars/all.yml", "example/group_vars/hypervisors.yml"])
def test_the_inventories_that_ship_can_have_manifests_of_their_own(template: str) -> None:
    text = (ROOT / "inventories" / template).read_text()
    made = own_manifests(text)
    assert "inventory_dir ~ '/runtimes/*.yaml'" in made
    before = [line for line in text.splitlines() if not line.startswith("  - ")]
    assert made.splitlines()[-1] == before[-1]
    assert own_manifests(made) == made


def test_a_runtime_of_a_cluster_is_refused_with_the_way_there(tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    path.write_text(MANIFEST.replace("spec:\n", "spec:\n  placement: {target: kubernetes}\n", 1))
    with pytest.raises(CtlError, match=r"playbooks/manifests\.yml") as caught:
        manifests.read([path])
    assert caught.value.status == REFUSED
    assert len(str(caught.value).splitlines()) == 1
